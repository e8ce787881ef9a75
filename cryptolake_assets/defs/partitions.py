"""The partitions of the graph: hours for Bronze and Silver, days for Gold; nothing else belongs here.

Both reach to the open hour and the open day, so that these can be materialized too.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from functools import lru_cache

import dagster as dg

from cryptolake_assets.exchange.universe import default_start_date
from cryptolake_assets.lake import windows
from cryptolake_assets.settings import get_settings

HOUR_FORMAT, DAY_FORMAT = windows.HOUR_FORMAT, windows.DAY_FORMAT


def _start() -> datetime:
    """The first partition's start."""
    return datetime.combine(default_start_date(get_settings()), time(), UTC)


@lru_cache(maxsize=1)
def hourly() -> dg.HourlyPartitionsDefinition:
    return dg.HourlyPartitionsDefinition(
        start_date=_start(),
        timezone="UTC",
        fmt=HOUR_FORMAT,
        end_offset=1,
    )


@lru_cache(maxsize=1)
def daily() -> dg.DailyPartitionsDefinition:
    return dg.DailyPartitionsDefinition(
        start_date=_start(),
        timezone="UTC",
        fmt=DAY_FORMAT,
        end_offset=1,
    )


def hour_of(partition_key: str) -> datetime:
    """Start of an hourly partition."""
    return datetime.strptime(partition_key, HOUR_FORMAT).replace(tzinfo=UTC)


def hour_key(hour: datetime) -> str:
    """The hourly partition that starts at `hour`."""
    return hour.astimezone(UTC).strftime(HOUR_FORMAT)
