"""Lengths and starts of time windows, epoch times, and partition name formats. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MINUTE_MS = 60_000
MINUTE_US = 60_000_000

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# Hourly and daily partition names, for `strftime`.
HOUR_FORMAT = "%Y-%m-%d-%H:%M"
DAY_FORMAT = "%Y-%m-%d"


def hour_of(moment: datetime) -> datetime:
    """Return the start of the UTC hour."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(moment: datetime) -> datetime:
    """Return the start of the UTC day."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def epoch_us(moment: datetime) -> int:
    """Return the microseconds since 1970 of an aware time."""
    return (moment - EPOCH) // MICROSECOND


def moment_of(epoch_us: int) -> datetime:
    """Return the UTC time of microseconds since 1970."""
    return EPOCH + epoch_us * MICROSECOND
