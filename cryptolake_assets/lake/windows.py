"""Time windows as Iceberg filters: hours of Bronze, days of Silver, months of Gold."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

HOUR_FORMAT = "%Y-%m-%d-%H:%M"
DAY_FORMAT = "%Y-%m-%d"
"""Names of hourly and daily partitions, for `strftime`."""


def between(column: str, start: datetime | date, end: datetime | date) -> str:
    """start <= column < end, as PyIceberg's filters are written."""
    return f"{column} >= '{start.isoformat()}' and {column} < '{end.isoformat()}'"


def hour_of(moment: datetime) -> datetime:
    """Start of the hour."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(moment: datetime) -> datetime:
    """Start of the UTC day."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def silver_day(moment: datetime) -> str:
    """The bars of the UTC day that holds `moment`."""
    start = day_of(moment)
    return between("window_start", start, start + DAY)


def gold_month(day: date) -> str:
    """The daily rows of the month that holds `day`."""
    start = day.replace(day=1)
    return between("trade_date", start, (start + timedelta(days=32)).replace(day=1))
