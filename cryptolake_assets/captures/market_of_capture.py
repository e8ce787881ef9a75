"""The markets of a capture directory, which frames alone do not always identify.

A directory of several markets has a subdirectory for each, named by the values of `CRYPTOLAKE_MARKET`: `usdm`, `coinm`,
`spot`. Any other directory is of one market, because the same symbol can mean different instruments in two markets; its
file `market` names it, by default USD-M futures.
"""

from __future__ import annotations

from pathlib import Path

from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.markets import VENUES, Market
from cryptolake_assets.settings import Settings
from cryptolake_assets.settings.replay import has_captures, market_directories

MARKET_FILE = "market"


def captured_markets(directory: Path) -> dict[Market, Path]:
    """Return the directory of each market's captures. Raises `CaptureError` if a market is ambiguous."""
    found = market_directories(directory)
    if not found:
        return {_named_market(directory) or Market.USD_M: directory}
    if has_captures(directory):
        raise CaptureError(
            f"capture: {directory} has captures and the market directories {', '.join(found)}. Move its captures to "
            "one of them, or to another directory."
        )
    for market, path in found.items():
        _check_named_market(path, market)
    return found


def capture_directory(settings: Settings) -> Path:
    """Return the directory of the captures of the settings' market. Raises `CaptureError` if the capture lacks it."""
    found = captured_markets(settings.replay_dir)
    if settings.market not in found:
        raise CaptureError(
            f"capture: {settings.replay_dir} has captures of {' and '.join(VENUES[market].title for market in found)}, "
            f"but not of {settings.venue.title}. Set CRYPTOLAKE_MARKETS to {','.join(found)}, or CRYPTOLAKE_REPLAY_DIR "
            "to other captures."
        )
    return found[settings.market]


def recorded_files(directory: Path, pattern: str) -> list[Path]:
    """Return the recorded responses whose names match, of the directory and of its market directories."""
    places = (directory, *market_directories(directory).values())
    return sorted(path for place in places for path in place.glob(pattern))


def recording_directory(settings: Settings, directory: Path) -> Path:
    """Return the directory for a recording of the settings' market.

    It is a subdirectory if several markets are tracked, or were recorded there before. Raises `CaptureError` if the
    directory has captures of another market.
    """
    is_of_several = len(settings.tracked_markets) > 1 or bool(market_directories(directory))
    if has_captures(directory):
        recorded = next(iter(captured_markets(directory)))
        if is_of_several or recorded is not settings.market:
            raise CaptureError(
                f"capture: {directory} has captures of {VENUES[recorded].title} only. Record "
                f"{'several markets' if is_of_several else settings.venue.title} to another directory."
            )
    return directory / settings.market if is_of_several else directory


def write_market(directory: Path, market: Market) -> None:
    """Write the market file of a new recording. Raises `CaptureError` if the file names another market."""
    _check_named_market(directory, market)
    (directory / MARKET_FILE).write_text(f"{market}\n", encoding="utf-8")


def _named_market(directory: Path) -> Market | None:
    """Return the market that the directory's file names; None without a file."""
    path = directory / MARKET_FILE
    if not path.is_file():
        return None
    try:
        return Market(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError) as error:
        raise CaptureError(
            f"capture: {path} does not name a market ({error}). Write the captures' market to it, one of "
            f"{', '.join(Market)}."
        ) from error


def _check_named_market(directory: Path, market: Market) -> None:
    named = _named_market(directory)
    if named not in (None, market):
        raise CaptureError(
            f"capture: {directory / MARKET_FILE} names the market {named}, not {market}. Correct the file, or move the "
            "captures to another directory."
        )
