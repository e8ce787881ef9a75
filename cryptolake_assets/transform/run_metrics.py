"""`ops.run_metrics`: one row per run and partition of Silver and Gold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import expire_snapshots
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunMetrics:
    """A row without `finished_at`, which is set when the row is written."""

    run_id: str
    asset: str
    partition: str
    engine: str
    rows_in: int
    rows_valid: int
    rows_written: int
    duration_ms: int
    source_snapshot: int
    snapshot: int | None
    rows_dropped: int = 0
    rows_duplicate: int = 0
    rows_other_type: int = 0
    rows_rejected: int = 0
    passed: bool = True
    dropped_by_rule: dict[str, int] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        row = asdict(self)
        row["rows_dropped_by_rule"] = json.dumps(row.pop("dropped_by_rule"))
        return row


def record(settings: Settings, rows: Sequence[RunMetrics]) -> None:
    """Append the rows in one commit and log each."""
    import pyarrow as pa

    finished_at = datetime.now(UTC)
    records = [row.as_row() for row in rows]
    for row in records:
        log.info("run_finished", **row)
    table = load_table(settings, OPS_RUN_METRICS)
    table.append(
        pa.Table.from_pylist(
            [{**row, "finished_at": finished_at} for row in records], schema=OPS_RUN_METRICS.arrow_schema()
        )
    )
    expire_snapshots(table)
