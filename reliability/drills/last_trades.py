"""The last trades of a minute, dropped on every connection: no bar of it may be final before they are repaired."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from cryptolake_assets.model.bar_state import BarState
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.platform.parts import API, PRODUCER
from reliability.drills.actions import Action, Parameters, Probe
from reliability.drills.drilled_platform import DrilledPlatform

HELD_BACK_MS: Final = 40_000  # after the end of the minute: twice as long as a minute takes to be final
POLL_S: Final = 0.5


class FinalTooEarlyError(Exception):
    """A bar was final while a trade of its minute was missing."""


@contextmanager
def last_trades_dropped(platform: DrilledPlatform, _parameters: Parameters) -> Iterator[None]:
    """Drop the last trade of each symbol in the next minute, and reject REST requests until some time after its end.

    The next minute, not this one: coverage must begin before it, otherwise it is never final.

    Raises `FinalTooEarlyError` if the API meanwhile serves a final bar of the minute.
    """
    minute_ms = (platform.clock_ms() // MINUTE_MS + 1) * MINUTE_MS
    symbols = platform.emitted.feed.symbols
    last = {symbol: platform.emitted.last_of_minute[symbol, minute_ms] for symbol in symbols}
    platform.switch_faults(
        *(
            {"kind": "drop", "streams": [f"{symbol.lower()}@aggTrade"], "ids": [[last_id, last_id]]}
            for symbol, last_id in last.items()
        ),
        {"kind": "rest_limit", "status": 429, "retry_after_s": 5},
    )
    try:
        while platform.clock_ms() < minute_ms + MINUTE_MS + HELD_BACK_MS:
            for symbol in symbols:
                if (bar := final_bar(platform, symbol, minute_ms)) is not None:
                    raise FinalTooEarlyError(
                        f"{symbol}: the bar of {bar['window_start']} is final without its last trade "
                        f"({last[symbol]}), which was dropped on every connection"
                    )
            time.sleep(POLL_S)
        yield
    finally:
        platform.end_faults("drop")
        platform.end_faults("rest_limit")


def exact_at_last(platform: DrilledPlatform, _parameters: Parameters) -> Probe:
    """Return a probe: all bars of the minute are final, with all of its trades. Call it when the fault has ended."""
    minute_ms = (platform.clock_ms() - HELD_BACK_MS) // MINUTE_MS * MINUTE_MS - MINUTE_MS
    return lambda: all(
        (bar := final_bar(platform, symbol, minute_ms)) is not None
        and Decimal(str(bar["volume"])) == platform.emitted.bars[symbol, minute_ms].columns()["volume"]
        for symbol in platform.emitted.feed.symbols
    )


def final_bar(platform: DrilledPlatform, symbol: str, minute_ms: int) -> dict[str, Any] | None:
    """Return the minute's bar as the API serves it, if it is final."""
    start = datetime.fromtimestamp(minute_ms / 1000, UTC).isoformat()
    return platform.bar(symbol, start, BarState.FINAL)


ACTIONS: Final = (
    Action(
        name="last_trades_dropped",
        fault=last_trades_dropped,
        probe=exact_at_last,
        needs=frozenset({PRODUCER, API}),
        withholds=frozenset({PRODUCER, API}),
        weight=0.3,
    ),
)
