"""Checks on the published Fear & Greed index as a whole: days that are missing, and how new it is. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta

from cryptolake_assets.model.source_facts import KNOWN_MISSING, missing_days
from cryptolake_assets.quality.bar_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.quality.batch_checks import DAYS_MISSING, NEWEST_ROW


def days_missing(stored: Collection[date]) -> CheckOutcome:
    """Up to the newest day that is stored. Days that were never published are named and do not count."""
    missing = missing_days(stored, max(stored)) if stored else []
    known = [day for day in missing if day in KNOWN_MISSING]
    unknown = [day for day in missing if day not in KNOWN_MISSING]
    said = f"{len(stored)} days held, {len(unknown)} missing; never published: {', '.join(map(str, known)) or 'none'}"
    sample = [{"index_date": str(day)} for day in unknown[-SAMPLE_ROWS:]]
    return CheckOutcome(DAYS_MISSING, not unknown and bool(stored), said, len(unknown), sample)


def newest_row(stored: Collection[date], today: date) -> CheckOutcome:
    """`today` is by the source's clock."""
    newest = max(stored, default=None)
    passed = newest is not None and newest >= today - timedelta(days=1)
    return CheckOutcome(NEWEST_ROW, passed, f"the newest day is {newest or 'none'}; the source's clock says {today}")
