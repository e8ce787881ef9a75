"""The market of a capture directory, which frames alone do not always identify.

The file `market` in the directory names it, with the values of `CRYPTOLAKE_MARKET`; the default is USD-M futures. A
directory holds one market, because the same symbol can mean different instruments in two markets.
"""

from __future__ import annotations

from pathlib import Path

from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.markets import VENUES, Market, Venue

MARKET_FILE = "market"


def venue_of_capture(directory: Path) -> Venue:
    """Return the venue of the directory's captures. Raises `CaptureError` if the file does not name a market."""
    path = directory / MARKET_FILE
    if not path.is_file():
        return VENUES[Market.USD_M]
    try:
        return VENUES[Market(path.read_text(encoding="utf-8").strip())]
    except (OSError, ValueError) as error:
        raise CaptureError(
            f"capture: {path} does not name a market ({error}). Write the captures' market to it, one of "
            f"{', '.join(Market)}."
        ) from error


def check_market(directory: Path, market: Market) -> None:
    """Raise `CaptureError` if the captures are from another market than `market`."""
    recorded = venue_of_capture(directory)
    if recorded.market is not market:
        raise CaptureError(
            f"capture: {directory} was recorded from {recorded.title}, but CRYPTOLAKE_MARKET is {market}. Set it to "
            f"{recorded.market} with a separate CRYPTOLAKE_HOME, or set CRYPTOLAKE_REPLAY_DIR to other captures."
        )


def write_market(directory: Path, market: Market) -> None:
    """Write the market file of a new recording. Raises `CaptureError` if the directory holds another market."""
    path = directory / MARKET_FILE
    has_captures = any(item.name.endswith((".ndjson", ".ndjson.gz")) for item in directory.iterdir())
    if path.exists() or has_captures:
        check_market(directory, market)
    path.write_text(f"{market}\n", encoding="utf-8")
