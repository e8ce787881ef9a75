"""Find the hours of Silver whose last candidate a check rejected, from the metrics of the runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptolake_assets.lake import filters
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import HOUR_FORMAT

if TYPE_CHECKING:
    from pyiceberg.table import Table

LOOK_BACK: Final = timedelta(hours=6)  # of finished runs, on our clock


def blocked_hours(run_metrics: Table, bars: TableSpec, now: datetime) -> frozenset[datetime]:
    """Return the hours of the table whose newest run of the last hours was rejected. Blocks."""
    where = filters.all_of(
        filters.at_least("finished_at", now - LOOK_BACK), filters.equal("asset", "/".join(bars.identifier))
    )
    fields = ("partition", "finished_at", "passed")
    rows = run_metrics.scan(row_filter=where, selected_fields=fields).to_arrow().to_pylist()
    newest = {row["partition"]: row["passed"] for row in sorted(rows, key=lambda row: row["finished_at"])}
    hours = (partition for partition, passed in newest.items() if not passed)
    return frozenset(datetime.strptime(hour, HOUR_FORMAT).replace(tzinfo=UTC) for hour in hours)
