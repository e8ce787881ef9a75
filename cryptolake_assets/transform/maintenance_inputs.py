"""Inputs of maintenance: the exchange clock, and the streaming queries that write Bronze."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptolake_assets.bronze.offsets import query_ids
from cryptolake_assets.lake.maintenance.tasks import StreamPosition
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.load_inputs import load_exchange_time_ms


def stream_position(settings: Settings) -> StreamPosition:
    """Return the current position, whose time is that of the last family.

    If the exchange does not respond, its clock is the end of the coverage.
    """
    clocks_ms = [clock_ms for view in settings.each_family if (clock_ms := load_exchange_time_ms(view)) is not None]
    clock_ms = min(clocks_ms, default=None)
    exchange_time = None if clock_ms is None else datetime.fromtimestamp(clock_ms / 1000, UTC)
    return StreamPosition(exchange_time, query_ids(settings))
