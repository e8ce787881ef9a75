"""The last publication of each recent hour of a Silver table: its run and Kafka offsets, in a property of the table.

A publication sets the property of its hours in the same commit as their rows. All trades of the hour below an offset
are in the hour's bars, or in quarantine. A run that has read its inputs before another one published the same hour must
not replace newer bars by older ones: its publication fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.errors import PublishedMeanwhileError

if TYPE_CHECKING:
    from pyiceberg.table import Table

PROPERTY: Final = "cryptolake.published-hours"
KEPT: Final = timedelta(hours=48)  # before the newest hour; older hours are dropped

OffsetsByHour = Mapping[datetime, Mapping[int, int]]  # next offset by partition


@dataclass(frozen=True)
class PublishedHour:
    """The last publication of an hour: its run, and the next offset by Kafka partition."""

    run_id: str
    offsets: Mapping[int, int]


def published_hours(table: Table) -> dict[datetime, PublishedHour]:
    """Return the last publication of each recent hour."""
    stored: dict[str, dict[str, Any]] = json.loads(table.properties.get(PROPERTY, "{}"))
    return {
        datetime.fromisoformat(hour): PublishedHour(
            entry["run"], {int(partition): offset for partition, offset in entry["offsets"].items()}
        )
        for hour, entry in stored.items()
    }


def contained_offsets(table: Table) -> OffsetsByHour:
    """Return the offsets that the table contains, by hour; only of recent hours."""
    return {hour: published.offsets for hour, published in published_hours(table).items()}


def property_with(
    table: Table, hours: Iterable[datetime], published: PublishedHour, known: Mapping[datetime, PublishedHour]
) -> dict[str, str]:
    """Return the table property after a publication of these hours; `known` is from before its inputs were read.

    Raises `PublishedMeanwhileError` if another run has published one of the hours since.
    """
    current, hours = published_hours(table), list(hours)
    for hour in hours:
        newer = current.get(hour)
        if newer is not None and newer != known.get(hour):
            raise PublishedMeanwhileError(
                f"silver: {hour:%Y-%m-%d %H:00} was published by run {newer.run_id} after this run had read its "
                "inputs; the newer bars stay. The hour is requested again if it has new data; to recompute it now, "
                "materialize it again."
            )
    by_hour = {**current, **dict.fromkeys(hours, published)}
    newest = max(by_hour, default=None)
    return {
        PROPERTY: json.dumps(
            {
                hour.isoformat(): {"run": by_hour[hour].run_id, "offsets": by_hour[hour].offsets}
                for hour in sorted(by_hour)
                if newest is None or hour >= newest - KEPT
            }
        )
    }
