"""What is known of the batch sources' values, where they are read and where they are checked. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from decimal import Decimal

FIRST_DAY = date(2018, 2, 1)
"""Of the Fear & Greed index."""
KNOWN_MISSING = frozenset({date(2018, 4, 14), date(2018, 4, 15), date(2018, 4, 16), date(2024, 10, 26)})
"""Days for which the index was never published."""
MAX_FUNDING_RATE = Decimal("0.1")
"""The exchange's own caps are at most a few per cent a funding; a larger rate is another unit."""
OPEN_INTEREST_PERIOD = timedelta(minutes=5)
"""Between two statistics of open interest."""


def missing_days(stored: Collection[date], last: date) -> list[date]:
    """Days from the index's first to `last` that are not held, oldest first."""
    there = set(stored)
    days = (FIRST_DAY + timedelta(days=number) for number in range((last - FIRST_DAY).days + 1))
    return [day for day in days if day not in there]
