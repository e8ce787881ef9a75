"""Checks on the Silver tables of the extra streams (all but trades). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cryptolake_assets.binance.stream_type import MinuteStream
from cryptolake_assets.binance.stream_types import MINUTE_STREAMS
from cryptolake_assets.model.windows import MINUTE
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome

if TYPE_CHECKING:
    import pyarrow as pa

ACCOUNTED = "events_accounted"
MINUTES_WITHOUT_ROW = "minutes_without_row"

MEANINGS: Mapping[str, str] = {
    **{name: meaning for stream_type in MINUTE_STREAMS for name, meaning in stream_type.meanings.items()},
    ACCOUNTED: "The rows count every distinct Bronze event of the hour once.",
    MINUTES_WITHOUT_ROW: "No minute without a row between a symbol's first and last row of the hour. Warns only.",
}


def blocking(stream_type: MinuteStream) -> tuple[str, ...]:
    """Return the names of the checks on a candidate, in the order of their results."""
    return ("schema", "unique_key", *stream_type.checks, ACCOUNTED)


def warning(stream_type: MinuteStream) -> tuple[str, ...]:
    """Return the names of the non-blocking checks, in the order of their results."""
    return (MINUTES_WITHOUT_ROW,) if stream_type.every_minute else ()


def events_accounted(stream_type: MinuteStream, rows: pa.Table, distinct: int) -> CheckOutcome:
    """Check that the rows count every distinct event once."""
    counted = sum(rows.column(stream_type.counted).to_pylist())
    description = f"{distinct} distinct events, {counted} counted in rows"
    return CheckOutcome(ACCOUNTED, counted == distinct, description, abs(counted - distinct))


def minutes_without_row(rows: Sequence[Mapping[str, Any]]) -> CheckOutcome:
    """Check for minutes without a row between a symbol's first and last one."""
    found = [
        {
            "exchange": earlier["exchange"],
            "symbol": earlier["symbol"],
            "after": _text(earlier["window_start"]),
            "before": _text(later["window_start"]),
        }
        for earlier, later in pairwise(rows)
        if (earlier["exchange"], earlier["symbol"]) == (later["exchange"], later["symbol"])
        and later["window_start"] - earlier["window_start"] > MINUTE
    ]
    description = f"{len(found)} gaps in the minutes"
    return CheckOutcome(MINUTES_WITHOUT_ROW, not found, description, len(found), found[:SAMPLE_ROWS])


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
