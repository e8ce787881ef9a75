"""Count the frames that the producer rejected (stage 1), by the hour in which they were received."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.filters import between
from cryptolake_assets.model.windows import hour_of
from cryptolake_assets.settings import Settings


def count_rejected(settings: Settings, first: datetime, last: datetime) -> Counter[datetime]:
    """Count rejected frames of first <= ingest_ts < last by hour of receipt; their event times are unreliable."""
    window = between("ingest_ts", first, last)
    found = (
        load_table(settings, settings.tables.rejected)
        .scan(row_filter=window, selected_fields=("ingest_ts",))
        .to_arrow()
    )
    return Counter(hour_of(moment) for moment in found["ingest_ts"].to_pylist())
