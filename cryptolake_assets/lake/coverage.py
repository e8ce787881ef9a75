"""`ops.stream_coverage`: what the producer writes there and what completeness reads from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import expire_snapshots, replace_files
from cryptolake_assets.lake.tables import OPS_COVERAGE
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """One statement: every frame of (symbol, stream) that the exchange sent between `connected_from_ms` (included) and
    `connected_to_ms` (excluded) is acknowledged by Kafka at an offset below `kafka_offset` of `kafka_partition`.

    Times are exchange time, ms since 1970, UTC. Key: (symbol, stream, connected_from_ms).
    """

    exchange: str
    symbol: str
    stream: str
    connected_from_ms: int
    connected_to_ms: int
    kafka_partition: int
    kafka_offset: int
    source: str


class IcebergCoverageSink:
    """Writes the producer's coverage rows. A row replaces one of the same key that reaches less far; one that reaches
    as far or farther stays, so that a repeated replay takes nothing back that is proven. A row that another one says
    already is not written: a replay that is repeated for ever leaves no more rows than its first pass."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def write(self, rows: Sequence[CoverageRow]) -> None:
        """Commits the rows at once. Blocks; raises what the catalog raises."""
        import pyarrow as pa
        from pyiceberg.expressions import AlwaysTrue

        table = load_table(self._settings, OPS_COVERAGE)
        known = {
            (item["symbol"], item["stream"], item["connected_from"]): item
            for item in table.scan().to_arrow().to_pylist()
        }
        changed = False
        for row in rows:
            record = _record(row)
            key = (record["symbol"], record["stream"], record["connected_from"])
            if not any(_says(other, record) for other in known.values()) and (
                key not in known or known[key]["connected_to"] < record["connected_to"]
            ):
                known[key] = record
                changed = True
        if changed:
            # The table is a few rows a connection: it is rewritten whole, as one file.
            replace_files(table, AlwaysTrue(), pa.Table.from_pylist(list(known.values()), OPS_COVERAGE.arrow_schema()))
            expire_snapshots(table)


def _says(known: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether a known record's interval holds the other one's, and counts whenever that one would."""
    return (
        all(known[name] == record[name] for name in ("exchange", "symbol", "stream", "kafka_partition"))
        and bool(known["connected_from"] <= record["connected_from"])
        and bool(known["connected_to"] >= record["connected_to"])
        and bool(known["kafka_offset"] <= record["kafka_offset"])
    )


def _record(row: CoverageRow) -> dict[str, Any]:
    return {
        "exchange": row.exchange,
        "symbol": row.symbol,
        "stream": row.stream,
        "connected_from": _utc(row.connected_from_ms),
        "connected_to": _utc(row.connected_to_ms),
        "source": row.source,
        "kafka_partition": row.kafka_partition,
        "kafka_offset": row.kafka_offset,
        "updated_at": datetime.now(UTC),
    }


def _utc(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def read_coverage(settings: Settings) -> list[CoverageRow]:
    """All coverage rows."""
    rows = load_table(settings, OPS_COVERAGE).scan().to_arrow().to_pylist()
    return [
        CoverageRow(
            exchange=row["exchange"],
            symbol=row["symbol"],
            stream=row["stream"],
            connected_from_ms=_epoch_ms(row["connected_from"]),
            connected_to_ms=_epoch_ms(row["connected_to"]),
            kafka_partition=row["kafka_partition"],
            kafka_offset=row["kafka_offset"],
            source=row["source"],
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Gap:
    """A span of exchange time, ms since 1970, between two spans of coverage of one (symbol, stream)."""

    symbol: str
    stream: str
    from_ms: int
    to_ms: int


def gaps_of(table: Table, snapshot_id: int | None = None) -> list[Gap]:
    """What the union of the coverage rows of a snapshot (None: the current one) leaves out between each symbol's first
    and last moment, in order."""
    fields = ("symbol", "stream", "connected_from", "connected_to")
    rows = table.scan(selected_fields=fields, snapshot_id=snapshot_id).to_arrow()
    columns = [(name, "ascending") for name in ("symbol", "stream", "connected_from")]
    gaps: list[Gap] = []
    reached: dict[tuple[str, str], int] = {}
    for row in rows.sort_by(columns).to_pylist():
        of = (row["symbol"], row["stream"])
        begin_ms, end_ms = _epoch_ms(row["connected_from"]), _epoch_ms(row["connected_to"])
        if of in reached and begin_ms > reached[of]:
            gaps.append(Gap(*of, reached[of], begin_ms))
        reached[of] = max(end_ms, reached.get(of, end_ms))
    return gaps


def _epoch_ms(value: datetime) -> int:
    return round(value.timestamp() * 1000)
