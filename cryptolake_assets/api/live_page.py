"""Pages of bars with the tail: the bars that Silver lacks yet, and the state of every bar."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake import filters
from cryptolake_assets.lake.pages import Page, PageQuery, overlaid
from cryptolake_assets.live.live_bars import LiveBars
from cryptolake_assets.live.minute import Topic
from cryptolake_assets.model.bar_state import STATE, BarState
from cryptolake_assets.model.markets import EXCHANGES

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression

STORED = frozenset({BarState.PUBLISHED, BarState.FINAL})


@dataclass(frozen=True)
class TailBars:
    """One symbol's bars of the tail, as of one moment, by exchange; none where Silver alone answers."""

    symbol: str
    bars: Mapping[str, Sequence[Mapping[str, Any]]]
    versions: Mapping[str, int | None]
    offsets: Mapping[str, Mapping[int, int] | None]  # after the last record, by partition; None: Silver alone answers

    def bars_of(self, exchange: str | None) -> Sequence[Mapping[str, Any]]:
        return self.bars.get(exchange or "", ())

    def version(self, exchange: str | None) -> tuple[Topic, int | None] | None:
        """Return the topic of the bars, and its version; None without an exchange."""
        return None if exchange is None else ((exchange, self.symbol), self.versions[exchange])

    def offsets_text(self, exchange: str | None) -> dict[str, int] | None:
        """Return the offsets with the partitions as text, for JSON."""
        offsets = self.offsets.get(exchange or "")
        return None if offsets is None else {str(partition): offset for partition, offset in sorted(offsets.items())}


def tail_bars(live: LiveBars, symbol: str, start: datetime | None, end: datetime | None) -> TailBars:
    """Return the symbol's bars that open in [start, end]. Call it in the event loop of the tail."""
    return TailBars(
        symbol,
        {exchange: live.bars((exchange, symbol), start, end) for exchange in EXCHANGES},
        {exchange: live.version((exchange, symbol)) for exchange in EXCHANGES},
        {exchange: live.offsets((exchange, symbol)) for exchange in EXCHANGES},
    )


def stored_where(states: Collection[BarState]) -> BooleanExpression:
    """Return the condition of Silver's bars in these states."""
    wanted = STORED & set(states)
    return filters.all_of(*([filters.equal("is_complete", BarState.FINAL in wanted)] if len(wanted) == 1 else []))


def page_with_states(
    page: Page, bars: Sequence[Mapping[str, Any]], states: Collection[BarState], query: PageQuery
) -> Page:
    """Return the page with the tail's bars of these states, and the state of every bar as its last column."""
    import pyarrow as pa

    rows = with_state(page.rows if STORED & set(states) else page.rows.slice(0, 0))
    fresh = [bar for bar in bars if bar[STATE.name] in states]
    return overlaid(Page(rows, page.more), pa.Table.from_pylist(fresh, schema=rows.schema), query)


def with_state(rows: pa.Table) -> pa.Table:
    """Return Silver's bars with their states."""
    import pyarrow as pa

    states = [stored_state({"is_complete": one}).value for one in rows["is_complete"].to_pylist()]
    return rows.append_column(STATE.name, pa.array(states, pa.string()))


def stored_state(bar: Mapping[str, Any]) -> BarState:
    """Return the state of a bar of Silver."""
    return BarState.FINAL if bar["is_complete"] else BarState.PUBLISHED
