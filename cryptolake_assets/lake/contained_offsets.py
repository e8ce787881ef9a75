"""Which Kafka records a Silver table contains: offsets by hour, in a property of the table.

A publication sets the offsets of its hours in the same commit as their rows. All trades of the hour below an offset are
in the hour's bars, or in quarantine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyiceberg.table import Table

PROPERTY: Final = "cryptolake.kafka-offsets"
KEPT: Final = timedelta(hours=48)  # before the newest hour; older hours are dropped

OffsetsByHour = Mapping[datetime, Mapping[int, int]]  # next offset by partition


def contained_offsets(table: Table) -> OffsetsByHour:
    """Return the offsets that the table contains, by hour; only of recent hours."""
    stored: dict[str, dict[str, int]] = json.loads(table.properties.get(PROPERTY, "{}"))
    return {
        datetime.fromisoformat(hour): {int(partition): offset for partition, offset in offsets.items()}
        for hour, offsets in stored.items()
    }


def property_with(table: Table, hours: Iterable[datetime], offsets: Mapping[int, int]) -> dict[str, str]:
    """Return the table property that also has the offsets of these hours."""
    by_hour = {**contained_offsets(table), **dict.fromkeys(hours, offsets)}
    newest = max(by_hour, default=None)
    kept = {hour.isoformat(): by_hour[hour] for hour in sorted(by_hour) if newest is None or hour >= newest - KEPT}
    return {PROPERTY: json.dumps(kept)}
