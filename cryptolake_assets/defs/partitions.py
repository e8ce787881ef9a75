"""The partitions of the graph: hours for Bronze and Silver, days for Gold.

They include the open hour and day, so that these can be materialized too; in a replay they end with its last day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

import dagster as dg

from cryptolake_assets.captures.tracked_symbols import default_end_date, default_start_date
from cryptolake_assets.model import windows
from cryptolake_assets.settings import Settings

HOUR_FORMAT, DAY_FORMAT = windows.HOUR_FORMAT, windows.DAY_FORMAT
PARTITION_TAG = "dagster/partition"
RANGE_START_TAG, RANGE_END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class GraphPartitions:
    """The partitions of one graph."""

    hourly: dg.HourlyPartitionsDefinition
    daily: dg.DailyPartitionsDefinition

    @classmethod
    def of(cls, settings: Settings) -> GraphPartitions:
        """Return the partitions from the settings' first day on. Raises `CaptureError` if a replay has no capture."""
        start = datetime.combine(default_start_date(settings), time(), UTC)
        last = default_end_date(settings)
        end = None if last is None else max(start, datetime.combine(last, time(), UTC)) + timedelta(days=1)
        end_offset = 0 if end is not None and end <= datetime.now(UTC) else 1
        return cls(
            dg.HourlyPartitionsDefinition(start, end, timezone="UTC", fmt=HOUR_FORMAT, end_offset=end_offset),
            dg.DailyPartitionsDefinition(start, end_date=end, timezone="UTC", fmt=DAY_FORMAT, end_offset=end_offset),
        )

    @property
    def have_ended(self) -> bool:
        """Return whether the last partition is in the past, as in a replay."""
        return self.daily.end_offset == 0

    def is_loaded(self, hour: datetime) -> bool:
        """Return whether the hour is a partition."""
        return self.hourly.has_partition_key(hour_key(hour))


def hour_of(partition_key: str) -> datetime:
    """Return the start of an hourly partition."""
    return datetime.strptime(partition_key, HOUR_FORMAT).replace(tzinfo=UTC)


def hour_key(hour: datetime) -> str:
    """Return the key of the hourly partition that starts at `hour`."""
    return hour.astimezone(UTC).strftime(HOUR_FORMAT)
