"""Bars of longer timeframes that their mart lacks yet: rolled up from one-minute bars of Silver and the tail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.api.live_page import page_with_states
from cryptolake_assets.api.params import Timeframe
from cryptolake_assets.api.pinned import PinnedTable
from cryptolake_assets.lake import filters
from cryptolake_assets.lake.pages import PageQuery, read_page
from cryptolake_assets.live.minute import Topic
from cryptolake_assets.model.bar_state import STATE, BarState
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.model.measures import rolled_up
from cryptolake_assets.model.windows import DAY, EPOCH, HOUR, MINUTE

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression

LENGTHS: Final = {
    Timeframe.M1: MINUTE,
    Timeframe.M5: 5 * MINUTE,
    Timeframe.M15: 15 * MINUTE,
    Timeframe.H1: HOUR,
    Timeframe.H4: 4 * HOUR,
    Timeframe.D1: DAY,
}
# The weakest proof of several minutes is the last one of these that any of them has.
_EVIDENCE: Final = (Evidence.IDS, Evidence.BARRIER, Evidence.KLINES)

WITHOUT_MART: Final = 2 * DAY  # of minutes that are rolled up for a symbol that the mart does not have

Bar = Mapping[str, Any]


def open_time(moment: datetime, length: timedelta) -> datetime:
    """Return the open time of the bar that contains the moment."""
    return moment - (moment - EPOCH) % length


def fresh_bars(
    mart: PinnedTable,
    silver: PinnedTable,
    topic: Topic,
    length: timedelta,
    span: tuple[datetime | None, datetime | None],
    tail: Sequence[Bar],
    max_bytes: int,
) -> list[dict[str, Any]]:
    """Return the symbol's bars from the newest one of the mart on, and those of the tail, that open in [start, end].

    Blocks; raises what `read_page` raises.
    """
    of_topic = filters.all_of(filters.equal("exchange", topic[0]), filters.equal("symbol", topic[1]))
    since = _newest(mart, of_topic, max_bytes)
    if since is None:
        newest = _newest(silver, of_topic, max_bytes)
        since = None if newest is None else open_time(newest - WITHOUT_MART, length)
    begins = [since] if since is not None else []
    begins += [open_time(tail[0]["window_start"], length)] if tail else []
    if not begins:
        return []
    start, end = span
    first = min(begins) if start is None else max(min(begins), open_time(start, length))
    where = [of_topic, filters.at_least("window_start", first)]
    where += [filters.below("window_start", open_time(end, length) + length)] if end is not None else []
    columns = tuple(item.name for item in silver.table.schema().fields)
    query = PageQuery(("window_start",), filters.all_of(*where), columns)
    page = read_page(silver.table, silver.snapshot_id, query, max_bytes)
    minutes = page_with_states(page, [bar for bar in tail if bar["window_start"] >= first], tuple(BarState), query)
    bars = rolled_bars(minutes.rows.to_pylist(), length)
    return [
        bar
        for bar in bars
        if (start is None or bar["window_start"] >= start) and (end is None or bar["window_start"] <= end)
    ]


def _newest(table: PinnedTable, where: BooleanExpression, max_bytes: int) -> datetime | None:
    query = PageQuery(("window_start",), where, ("window_start",), limit=1, descending=True)
    rows = read_page(table.table, table.snapshot_id, query, max_bytes).rows
    return next(iter(rows.column("window_start").to_pylist()), None)


def rolled_bars(minutes: Iterable[Bar], length: timedelta) -> Iterator[dict[str, Any]]:
    """Yield the bars of one symbol's one-minute bars with states, which are in order of time.

    A bar is final if it has every minute and all of them are; a minute without trades has no bar.
    """
    for start, group in groupby(minutes, lambda bar: open_time(bar["window_start"], length)):
        bars = list(group)
        state = _state([BarState(bar[STATE.name]) for bar in bars], is_full=len(bars) == length // MINUTE)
        is_complete = state is BarState.FINAL
        yield {
            **rolled_up(bars),
            "exchange": bars[0]["exchange"],
            "symbol": bars[0]["symbol"],
            "window_start": start,
            "is_complete": is_complete,
            "evidence": _weakest(bars) if is_complete else None,
            "trades_dropped": sum(bar["trades_dropped"] or 0 for bar in bars),
            "updated_at": max((bar["updated_at"] for bar in bars if bar["updated_at"] is not None), default=None),
            STATE.name: state,
        }


def _state(states: Sequence[BarState], *, is_full: bool) -> BarState:
    for state in (BarState.BLOCKED, BarState.PROVISIONAL):
        if state in states:
            return state
    return BarState.FINAL if is_full and set(states) == {BarState.FINAL} else BarState.PUBLISHED


def _weakest(bars: Sequence[Bar]) -> str | None:
    found = [bar["evidence"] for bar in bars]
    return None if None in found else max(found, key=lambda evidence: _EVIDENCE.index(Evidence(evidence)))
