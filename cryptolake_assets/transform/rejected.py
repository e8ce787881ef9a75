"""Counts the frames that the producer refused (stage 1) by the hour in which they were received."""

from __future__ import annotations

from datetime import datetime

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.tables import BRONZE_REJECTED
from cryptolake_assets.lake.windows import HOUR, between
from cryptolake_assets.settings import Settings


def count_rejected(settings: Settings, hour: datetime) -> int:
    """Refused frames with hour <= ingest_ts < hour + 1 h. They have no event time that could be trusted."""
    window = between("ingest_ts", hour, hour + HOUR)
    return load_table(settings, BRONZE_REJECTED).scan(row_filter=window, selected_fields=("ingest_ts",)).count()
