"""Store invalid lines of archive files as dead letters, with their reason, next to the stream's rejected frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptolake_assets.binance.archive_csv import BadLine
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.filters import equal
from cryptolake_assets.model.trade_tables import BRONZE_REJECTED
from cryptolake_assets.settings import Settings

_LINE_NUMBER = re.compile(r"\Aline [0-9]+: ")


def write_rejected_lines(settings: Settings, source: str, lines: Sequence[BadLine]) -> int:
    """Append the lines that are not stored yet, without Kafka coordinates; return their number.

    A line and its reason are stored once per file, whatever the line number, because another issue of the file, with or
    without a header, shifts line numbers. `source` names the file and is stored as the stream. Blocks; raises the
    catalog's errors.
    """
    import pyarrow as pa

    if not lines:
        return 0
    table = load_table(settings, BRONZE_REJECTED)
    stored = table.scan(row_filter=equal("stream", source), selected_fields=("raw", "reason")).to_arrow().to_pylist()
    stored_lines = {(row["raw"], _LINE_NUMBER.sub("", row["reason"])) for row in stored}
    new: dict[tuple[bytes, str], BadLine] = {}
    for line in lines:
        new.setdefault((line.text.encode(), line.reason), line)
    received = datetime.now(UTC)
    schema = BRONZE_REJECTED.arrow_schema()
    rows = [
        {**dict.fromkeys(schema.names), "raw": key[0], "reason": _reason(line), "stream": source, "ingest_ts": received}
        for key, line in new.items()
        if key not in stored_lines
    ]
    if rows:
        table.append(pa.Table.from_pylist(rows, schema))
    return len(rows)


def _reason(line: BadLine) -> str:
    return f"line {line.number}: {line.reason}" if line.number else line.reason
