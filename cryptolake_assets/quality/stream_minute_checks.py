"""Checks on Silver of the streams other than trades. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cryptolake_assets.binance.stream_type import MinuteStream
from cryptolake_assets.binance.stream_types import EXTRA_STREAM_TYPES
from cryptolake_assets.model.windows import MINUTE
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome

if TYPE_CHECKING:
    import pyarrow as pa

ACCOUNTED = "events_accounted"
MINUTES_WITHOUT_ROW = "minutes_without_row"

MEANINGS: Mapping[str, str] = {
    **{name: meaning for stream_type in EXTRA_STREAM_TYPES for name, meaning in stream_type.meanings.items()},
    ACCOUNTED: "The rows stand for every event that Bronze holds of the hour, each once.",
    MINUTES_WITHOUT_ROW: "No minute without a row between a symbol's first and last of the hour. Warns only.",
}


def blocking(stream_type: MinuteStream) -> tuple[str, ...]:
    """Return the names of the checks on a candidate, in the order of their results."""
    return ("schema", "unique_key", *stream_type.checks, ACCOUNTED)


def warning(stream_type: MinuteStream) -> tuple[str, ...]:
    return (MINUTES_WITHOUT_ROW,) if stream_type.every_minute else ()


def events_accounted(stream_type: MinuteStream, rows: pa.Table, distinct: int) -> CheckOutcome:
    """Check that the rows account for every event once."""
    stands_for = sum(rows.column(stream_type.counted).to_pylist())
    said = f"{distinct} events, the rows stand for {stands_for}"
    return CheckOutcome(ACCOUNTED, stands_for == distinct, said, abs(stands_for - distinct))


def minutes_without_row(rows: Sequence[Mapping[str, Any]]) -> CheckOutcome:
    """Check for minutes without a row between a symbol's first and last one."""
    found = [
        {"symbol": earlier["symbol"], "after": _text(earlier["window_start"]), "before": _text(later["window_start"])}
        for earlier, later in pairwise(rows)
        if earlier["symbol"] == later["symbol"] and later["window_start"] - earlier["window_start"] > MINUTE
    ]
    said = f"{len(found)} holes in the minutes"
    return CheckOutcome(MINUTES_WITHOUT_ROW, not found, said, len(found), found[:SAMPLE_ROWS])


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
