"""Which market a directory of captures was recorded from: its frames alone do not always say.

A file `market` beside the captures names it, as `CRYPTOLAKE_MARKET` does; without one they are of USD-M futures. One
directory holds one market: a symbol may be another thing in another one.
"""

from __future__ import annotations

from pathlib import Path

from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.markets import VENUES, Market, Venue

MARKET_FILE = "market"


def venue_of_capture(directory: Path) -> Venue:
    """The venue of the directory's captures. Raises `CaptureError` for a file that names none."""
    path = directory / MARKET_FILE
    if not path.is_file():
        return VENUES[Market.USD_M]
    try:
        return VENUES[Market(path.read_text(encoding="utf-8").strip())]
    except (OSError, ValueError) as error:
        raise CaptureError(
            f"capture: {path} names no market ({error}). Write {', '.join(Market)} into it: whose frames these are."
        ) from error


def check_market(directory: Path, market: Market) -> None:
    """Raises `CaptureError` where the captures are of another market than the one that is tracked."""
    recorded = venue_of_capture(directory)
    if recorded.market is not market:
        raise CaptureError(
            f"capture: {directory} was recorded from {recorded.title}, and CRYPTOLAKE_MARKET is {market}. Set it to "
            f"{recorded.market}, in a CRYPTOLAKE_HOME of its own, or CRYPTOLAKE_REPLAY_DIR to other captures."
        )


def write_market(directory: Path, market: Market) -> None:
    """Names the market of captures that are about to be written. Raises `CaptureError` where others are there."""
    path = directory / MARKET_FILE
    has_captures = any(item.name.endswith((".ndjson", ".ndjson.gz")) for item in directory.iterdir())
    if path.exists() or has_captures:
        check_market(directory, market)
    path.write_text(f"{market}\n", encoding="utf-8")
