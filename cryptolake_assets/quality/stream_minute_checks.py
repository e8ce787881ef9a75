"""Names and meanings of the checks on Silver of the streams beside the trades. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import STREAM_TYPES

ACCOUNTED = "events_accounted"
MINUTES_WITHOUT_ROW = "minutes_without_row"
MARKET_OBSERVATIONS = (MINUTES_WITHOUT_ROW,)
"""Checks that only warn."""

MEANINGS: Mapping[str, str] = {
    **{name: meaning for stream_type in STREAM_TYPES for name, meaning in stream_type.meanings.items()},
    ACCOUNTED: "The rows stand for every event that Bronze holds of the hour, each once.",
    MINUTES_WITHOUT_ROW: "No minute without a row between a symbol's first and last of the hour. Warns only.",
}


def blocking(stream_type: StreamType) -> tuple[str, ...]:
    """Names of the checks on a candidate, in the order of their results."""
    return ("schema", "unique_key", *stream_type.checks, ACCOUNTED)


def warning(stream_type: StreamType) -> tuple[str, ...]:
    return (MINUTES_WITHOUT_ROW,) if stream_type.every_minute else ()
