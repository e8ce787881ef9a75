"""Known facts of the batch sources' data, shared by their readers and checks. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from decimal import Decimal

FIRST_DAY = date(2018, 2, 1)  # first day of the Fear & Greed index
# Days for which the index was never published.
KNOWN_MISSING = frozenset({date(2018, 4, 14), date(2018, 4, 15), date(2018, 4, 16), date(2024, 10, 26)})
# The exchange caps funding at a few percent; a larger rate means another unit.
MAX_FUNDING_RATE = Decimal("0.1")
OPEN_INTEREST_PERIOD = timedelta(minutes=5)  # between two open-interest statistics


def missing_days(stored: Collection[date], last: date) -> list[date]:
    """Return the days from the index's first day to `last` without a stored value, oldest first."""
    known = set(stored)
    days = (FIRST_DAY + timedelta(days=number) for number in range((last - FIRST_DAY).days + 1))
    return [day for day in days if day not in known]
