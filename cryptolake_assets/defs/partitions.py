"""The partitions of the graph: hours for Bronze and Silver, days for Gold; nothing else belongs here.

Both reach to the open hour and the open day, so that these can be materialized too; in a replay to the end of its last
day.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import TypedDict

import dagster as dg

from cryptolake_assets.captures.tracked_symbols import default_end_date, default_start_date
from cryptolake_assets.lake import windows
from cryptolake_assets.settings import get_settings

HOUR_FORMAT, DAY_FORMAT = windows.HOUR_FORMAT, windows.DAY_FORMAT


class _Range(TypedDict):
    start_date: datetime
    end_date: datetime | None
    end_offset: int


@lru_cache(maxsize=1)
def _range() -> _Range:
    """The first partition's start and the last one's end, if there is a last one."""
    settings = get_settings()
    start = datetime.combine(default_start_date(settings), time(), UTC)
    last = default_end_date(settings)
    end = None if last is None else max(start, datetime.combine(last, time(), UTC)) + timedelta(days=1)
    has_ended = end is not None and end <= datetime.now(UTC)
    return _Range(start_date=start, end_date=end, end_offset=0 if has_ended else 1)


def have_ended() -> bool:
    """Whether the last partition is one of the past, as in a replay."""
    return _range()["end_offset"] == 0


@lru_cache(maxsize=1)
def hourly() -> dg.HourlyPartitionsDefinition:
    return dg.HourlyPartitionsDefinition(timezone="UTC", fmt=HOUR_FORMAT, **_range())


@lru_cache(maxsize=1)
def daily() -> dg.DailyPartitionsDefinition:
    return dg.DailyPartitionsDefinition(timezone="UTC", fmt=DAY_FORMAT, **_range())


def is_loaded(hour: datetime) -> bool:
    """Whether the hour is a partition of the definitions that this process has loaded."""
    return hourly().has_partition_key(hour_key(hour))


def hour_of(partition_key: str) -> datetime:
    """Start of an hourly partition."""
    return datetime.strptime(partition_key, HOUR_FORMAT).replace(tzinfo=UTC)


def hour_key(hour: datetime) -> str:
    """The hourly partition that starts at `hour`."""
    return hour.astimezone(UTC).strftime(HOUR_FORMAT)
