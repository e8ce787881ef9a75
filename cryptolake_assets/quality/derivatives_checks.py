"""Checks on published funding rates and open interest as a whole: what is missing, and how new it is. Pure.

Each takes the times that are held by symbol, in order, and warns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptolake_assets.model.source_facts import OPEN_INTEREST_PERIOD
from cryptolake_assets.quality.bar_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.quality.batch_checks import FUNDING_HOLES, PERIODS_MISSING, SYMBOLS_BEHIND

Times = Mapping[str, Sequence[datetime]]

MAX_FUNDING_INTERVAL = timedelta(hours=8)
JITTER = timedelta(minutes=1)
"""Fundings are charged some ms after the full hour; a minute late is not missing."""


def funding_holes(stored: Times) -> CheckOutcome:
    """Longer than eight hours, or longer than the intervals on both sides: symbols change between 8, 4 and 1 hours, and
    an interval that is alone in its length is one in which a funding is missing."""
    found = [
        {"symbol": symbol, "after": _text(start), "before": _text(end)}
        for symbol, times in sorted(stored.items())
        for start, end in _holes(times)
    ]
    rates = sum(map(len, stored.values()))
    return _outcome(FUNDING_HOLES, found, f"{rates} rates of {len(stored)} symbols held, {len(found)} holes")


def _holes(times: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    lengths = [end - start for start, end in pairwise(times)]
    for number, (start, end) in enumerate(pairwise(times)):
        around = [*lengths[max(0, number - 1) : number], *lengths[number + 1 : number + 2]]
        alone = len(around) == 2 and lengths[number] > max(around) + JITTER
        if alone or lengths[number] > MAX_FUNDING_INTERVAL + JITTER:
            yield start, end


def periods_missing(stored: Times) -> CheckOutcome:
    """Statistics of five minutes between a symbol's first and newest one."""
    found = [
        {"symbol": symbol, "after": _text(start), "before": _text(end)}
        for symbol, times in sorted(stored.items())
        for start, end in pairwise(times)
        if end - start > OPEN_INTEREST_PERIOD
    ]
    missing = sum(
        (end - start) // OPEN_INTEREST_PERIOD - 1
        for times in stored.values()
        for start, end in pairwise(times)
        if end - start > OPEN_INTEREST_PERIOD
    )
    return _outcome(PERIODS_MISSING, found, f"{missing} periods missing in {len(found)} holes")


def symbols_behind(stored: Times, symbols: Sequence[str], clock: datetime, limit: timedelta) -> CheckOutcome:
    """Followed symbols whose newest row is further behind the exchange's clock than `limit`, or that have none."""
    found = []
    for symbol in symbols:
        newest = stored[symbol][-1] if stored.get(symbol) else None
        if newest is None or clock - newest > limit:
            found.append({"symbol": symbol, "newest": "none" if newest is None else _text(newest)})
    return _outcome(SYMBOLS_BEHIND, found, f"{len(found)} of {len(symbols)} symbols more than {limit} behind {clock}")


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _outcome(name: str, found: list[dict[str, str]], said: str) -> CheckOutcome:
    return CheckOutcome(name, not found, said, len(found), found[-SAMPLE_ROWS:])
