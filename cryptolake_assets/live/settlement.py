"""Compare the last provisional bar of a minute with the bar that Silver published of the same trades."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.lake import filters
from cryptolake_assets.live.minute import MinuteKey
from cryptolake_assets.model.measures import BAR_MEASURES
from cryptolake_assets.model.windows import epoch_us, moment_of

if TYPE_CHECKING:
    from pyiceberg.table import Table

COMPARED: Final = tuple(
    measure.name for measure in BAR_MEASURES if measure.aggregate is not None or measure.derive is not None
)


class SettledOutcome(StrEnum):
    """Result of a comparison; every outcome but the first is a difference."""

    EQUAL = "equal"
    LATE = "late"  # Silver has read records that the tail had not
    COPIES = "copies"  # the minute had copies of a trade, which may differ
    QUARANTINED = "quarantined"  # trades were out of range for one of the two
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True)
class Settled:
    """An evicted minute, and what may explain that Silver's bar differs."""

    key: MinuteKey
    bar: Mapping[str, Any] | None  # None: the tail has no bar
    has_copies: bool
    has_out_of_range: bool
    is_behind: bool  # Silver contains records that the tail had not read


def outcome(settled: Settled, published: Mapping[str, Any] | None) -> SettledOutcome:
    """Return the outcome for Silver's bar of the minute; None: it has none."""
    bar = settled.bar
    if bar is None or published is None:
        is_equal = bar is published
    else:
        is_equal = all(bar[name] == published[name] for name in COMPARED)
    if is_equal:
        return SettledOutcome.EQUAL
    if settled.is_behind:
        return SettledOutcome.LATE
    if settled.has_copies:
        return SettledOutcome.COPIES
    return SettledOutcome.QUARANTINED if settled.has_out_of_range else SettledOutcome.UNEXPLAINED


def published_bars(silver: Table, keys: Iterable[MinuteKey]) -> dict[MinuteKey, dict[str, Any]]:
    """Return Silver's bars of these minutes. Blocks."""
    wanted = set(keys)
    if not wanted:
        return {}
    starts = sorted(start_us for start_us, _ in wanted)
    where = filters.all_of(
        filters.at_least("window_start", moment_of(starts[0])), filters.at_most("window_start", moment_of(starts[-1]))
    )
    rows: Sequence[dict[str, Any]] = silver.scan(row_filter=where).to_arrow().to_pylist()
    by_key = {(epoch_us(row["window_start"]), (row["exchange"], row["symbol"])): row for row in rows}
    return {key: row for key, row in by_key.items() if key in wanted}
