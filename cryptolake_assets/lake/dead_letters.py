"""Store invalid lines of archive files as dead letters, with their reason, next to the stream's rejected frames."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptolake_assets.binance.archive_csv import BadLine
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.filters import equal
from cryptolake_assets.settings import Settings


def write_rejected_lines(settings: Settings, source: str, lines: Sequence[BadLine]) -> int:
    """Append the lines that are not stored yet, without Kafka coordinates; return their number.

    A line is stored once per file, with its first reason: another issue of the file shifts line numbers, and another
    release may word a reason differently. `source` names the file and is stored as the stream. Blocks; raises the
    catalog's errors.
    """
    import pyarrow as pa

    if not lines:
        return 0
    table = load_table(settings, settings.tables.rejected)
    scan = table.scan(row_filter=equal("stream", source), selected_fields=("raw",))
    stored = set(scan.to_arrow()["raw"].to_pylist())
    new: dict[bytes, BadLine] = {}
    for line in lines:
        new.setdefault(line.text.encode(), line)
    received = datetime.now(UTC)
    schema = settings.tables.rejected.arrow_schema()
    rows = [
        {**dict.fromkeys(schema.names), "raw": raw, "reason": _reason(line), "stream": source, "ingest_ts": received}
        for raw, line in new.items()
        if raw not in stored
    ]
    if rows:
        table.append(pa.Table.from_pylist(rows, schema))
    return len(rows)


def _reason(line: BadLine) -> str:
    return f"line {line.number}: {line.reason}" if line.number else line.reason
