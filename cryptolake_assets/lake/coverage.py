"""Write and read `ops.stream_coverage`: the proven coverage of streams and of the archive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import expire_snapshots, replace_files
from cryptolake_assets.lake.filters import above, all_of, below, is_null, one_of
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table


# The `kafka_partition` of an archive row whose trades are still being written. No topic has this partition, so the row
# covers no time yet; it only shows that the exchange clock is past its end.
LOADING = -1

NOT_LOADING = f"kafka_partition is null or kafka_partition != {LOADING}"  # filter for all other rows


class Evidence(StrEnum):
    """The evidence that no trade of a span is missing."""

    BARRIER = (
        "barrier"  # the response to a request on the connection, which follows all frames that the exchange sent before
    )
    IDS = "ids"  # consecutive trade ids
    KLINES = "klines"  # the exchange's own trade count and volume of each minute


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """A covered span of (symbol, stream): `connected_from_ms` inclusive, `connected_to_ms` exclusive.

    Kafka has acknowledged every frame of the span at an offset below `kafka_offset` of `kafka_partition`. Without these
    two, every trade of the span is in Bronze from the archive. Times are exchange time, ms since 1970, UTC. Key:
    (exchange, symbol, stream, connected_from_ms).
    """

    exchange: str
    symbol: str
    stream: str
    connected_from_ms: int
    connected_to_ms: int
    kafka_partition: int | None
    kafka_offset: int | None
    source: str
    evidence: Evidence | None = None  # None in rows of earlier releases
    first_id: int | None = None
    last_id: int | None = None  # in archive rows: the first and last of consecutive ids, both inclusive

    @property
    def of_archive(self) -> bool:
        """Return whether the row covers the archive, not the stream."""
        return self.kafka_partition is None or self.kafka_partition == LOADING


class IcebergCoverageSink:
    """Writer of the producer's coverage rows.

    A row replaces a row of the same key with an earlier end; otherwise the stored row stays, so a repeated replay does
    not shorten coverage. A row that a stored row already includes is not written, so a looping replay adds no
    rows after its first pass.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def write(self, rows: Sequence[CoverageRow]) -> None:
        """Commit the rows at once. Blocks; raises the catalog's errors."""
        import pyarrow as pa
        from pyiceberg.expressions import AlwaysTrue

        table = load_table(self._settings, OPS_COVERAGE)
        stored = table.scan().to_arrow().to_pylist()
        of_archive = [item for item in stored if _is_of_archive(item)]
        known = {
            (item["exchange"], item["symbol"], item["stream"], item["connected_from"]): item
            for item in stored
            if not _is_of_archive(item)
        }
        changed = False
        for row in rows:
            record = _record(row)
            key = (record["exchange"], record["symbol"], record["stream"], record["connected_from"])
            if not any(_includes(other, record) for other in known.values()) and (
                key not in known or known[key]["connected_to"] < record["connected_to"]
            ):
                known[key] = record
                changed = True
        if changed:
            # The table has a few rows per connection: rewrite all of it as one file.
            records = [*of_archive, *known.values()]
            replace_files(table, AlwaysTrue(), pa.Table.from_pylist(records, OPS_COVERAGE.arrow_schema()))
            expire_snapshots(table)


def _is_of_archive(item: Mapping[str, Any]) -> bool:
    """Return whether a record covers the archive, like `CoverageRow.of_archive`."""
    return item["kafka_partition"] is None or bool(item["kafka_partition"] == LOADING)


def change_archive_rows(
    settings: Settings, exchange: str, symbol: str, change: Callable[[list[CoverageRow]], list[CoverageRow]]
) -> None:
    """Replace the archive rows of (exchange, symbol) by the result of `change`.

    Unchanged rows keep their write time, and the producer's rows in the same table are kept. Blocks; raises the
    catalog's errors.
    """
    import pyarrow as pa
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from pyiceberg.expressions import AlwaysTrue

    for attempt in commit_attempts(CommitFailedException, ValidationException):
        with attempt:
            table = load_table(settings, OPS_COVERAGE)
            stored = table.scan().to_arrow().to_pylist()
            before = {
                _row(item): item
                for item in stored
                if _is_of_archive(item) and (item["exchange"], item["symbol"]) == (exchange, symbol)
            }
            after = change(list(before))
            if set(after) == before.keys():
                return
            others = [item for item in stored if _row(item) not in before]
            records = [*others, *(before.get(row) or _record(row) for row in after)]
            replace_files(table, AlwaysTrue(), pa.Table.from_pylist(records, OPS_COVERAGE.arrow_schema()))
    expire_snapshots(table)


def _includes(known: dict[str, Any], record: dict[str, Any]) -> bool:
    """Return whether `known` contains the interval of `record` and counts whenever `record` would."""
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
        "evidence": None if row.evidence is None else row.evidence.value,
        "first_id": row.first_id,
        "last_id": row.last_id,
    }


def _utc(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def read_coverage(
    settings: Settings,
    *,
    symbols: Collection[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[CoverageRow]:
    """Return the coverage rows of the symbols (None: all) that overlap [start, end).

    None means no bound.
    """
    conditions = [] if symbols is None else [one_of("symbol", symbols)]
    conditions += [] if start is None else [above("connected_to", start)]
    conditions += [] if end is None else [below("connected_from", end)]
    scan = load_table(settings, OPS_COVERAGE).scan(row_filter=all_of(*conditions))
    return [_row(item) for item in scan.to_arrow().to_pylist()]


def streamed_symbols(settings: Settings, start: datetime, end: datetime | None = None) -> frozenset[str]:
    """Return the symbols that a stream received in [start, end).

    Read from coverage, because a symbol selection by pattern or volume does not name its symbols.
    """
    return frozenset(row.symbol for row in read_coverage(settings, start=start, end=end) if not row.of_archive)


@dataclass(frozen=True)
class CoverageExtent:
    """The extent of all coverage: its symbols, and the ends of streams and archive (ms since 1970)."""

    symbols: frozenset[str]
    streamed_to_ms: int | None
    archived_to_ms: int | None


def read_coverage_of(
    settings: Settings, exchanges: Collection[str], start: datetime | None, end: datetime | None
) -> tuple[list[CoverageRow], CoverageExtent]:
    """Return the exchanges' rows that overlap [start, end) (all rows without bounds), and the extent of all rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = load_table(settings, OPS_COVERAGE).scan().to_arrow()
    rows = rows.filter(pc.is_in(rows["exchange"], value_set=pa.array(sorted(exchanges), pa.string())))
    archived = pc.or_kleene(pc.is_null(rows["kafka_partition"]), pc.equal(rows["kafka_partition"], LOADING))
    extent = CoverageExtent(
        symbols=frozenset(pc.unique(rows["symbol"]).to_pylist()),
        streamed_to_ms=_latest_ms(rows.filter(pc.invert(archived))),
        archived_to_ms=_latest_ms(rows.filter(archived)),
    )
    if start is not None and end is not None:
        inside = pc.and_(pc.greater(rows["connected_to"], start), pc.less(rows["connected_from"], end))
        rows = rows.filter(inside)
    return [_row(item) for item in rows.to_pylist()], extent


def _latest_ms(rows: pa.Table) -> int | None:
    import pyarrow.compute as pc

    latest = pc.max(rows["connected_to"]).as_py()
    return None if latest is None else _epoch_ms(latest)


def archive_rows_since(settings: Settings, since: datetime | None) -> list[tuple[CoverageRow, datetime]]:
    """Return the archive rows written after `since` whose trades are in Bronze, with their write times."""
    rows = load_table(settings, OPS_COVERAGE).scan(row_filter=is_null("kafka_partition")).to_arrow().to_pylist()
    return [(_row(item), item["updated_at"]) for item in rows if since is None or item["updated_at"] > since]


def _row(item: Mapping[str, Any]) -> CoverageRow:
    return CoverageRow(
        exchange=item["exchange"],
        symbol=item["symbol"],
        stream=item["stream"],
        connected_from_ms=_epoch_ms(item["connected_from"]),
        connected_to_ms=_epoch_ms(item["connected_to"]),
        kafka_partition=item["kafka_partition"],
        kafka_offset=item["kafka_offset"],
        source=item["source"],
        # A lake of an earlier release lacks these columns until `cryptolake bootstrap` adds them.
        evidence=None if item.get("evidence") is None else Evidence(item["evidence"]),
        first_id=item.get("first_id"),
        last_id=item.get("last_id"),
    )


@dataclass(frozen=True)
class CoverageGap:
    """A span of exchange time, ms since 1970, between two covered spans of one (symbol, stream)."""

    symbol: str
    stream: str
    from_ms: int
    to_ms: int


def gaps_of(table: Table, snapshot_id: int | None = None) -> list[CoverageGap]:
    """Return the coverage gaps of a snapshot (None: the current one), in order.

    A gap lies between the first and last covered moment of a (symbol, stream) and in none of its coverage rows.
    """
    fields = ("symbol", "stream", "connected_from", "connected_to")
    rows = table.scan(row_filter=NOT_LOADING, selected_fields=fields, snapshot_id=snapshot_id).to_arrow()
    columns = [(name, "ascending") for name in ("symbol", "stream", "connected_from")]
    gaps: list[CoverageGap] = []
    ends: dict[tuple[str, str], int] = {}
    for row in rows.sort_by(columns).to_pylist():
        key = (row["symbol"], row["stream"])
        begin_ms, end_ms = _epoch_ms(row["connected_from"]), _epoch_ms(row["connected_to"])
        if key in ends and begin_ms > ends[key]:
            gaps.append(CoverageGap(*key, ends[key], begin_ms))
        ends[key] = max(end_ms, ends.get(key, end_ms))
    return gaps


def _epoch_ms(value: datetime) -> int:
    return round(value.timestamp() * 1000)
