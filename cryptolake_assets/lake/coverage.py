"""Write and read `ops.stream_coverage`: the proven coverage of streams and of the archive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import expire_snapshots
from cryptolake_assets.lake.coverage_union import fold
from cryptolake_assets.lake.filters import above, all_of, at_least, below, equal, is_null, one_of
from cryptolake_assets.lake.pages import read_files
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.lake.touched_files import closed_apart, read_touched, replace_touched
from cryptolake_assets.model.coverage_rows import LOADING, CoverageRow, Evidence
from cryptolake_assets.model.markets import exchanges_of
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import FileScanTask, Table

NOT_LOADING = f"kafka_partition is null or kafka_partition != {LOADING}"  # filter for all rows without a loading day
OF_ARCHIVE = f"kafka_partition is null or kafka_partition == {LOADING}"

Key = tuple[str, str, str]  # exchange, symbol, stream


class IcebergCoverageSink:
    """Writer of the producer's coverage: a union of intervals per (exchange, symbol, stream).

    A write reads and replaces only files with rows that the claims may touch. A claim that the union already contains
    is not written, so a repeated replay adds nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def write(self, claims: Sequence[CoverageRow]) -> None:
        """Commit the claims at once. Blocks; raises the catalog's errors."""
        claims = [row for row in claims if row.connected_from_ms < row.connected_to_ms]
        if not claims:
            return
        table = load_table(self._settings, OPS_COVERAGE)
        earliest = _utc(min(row.connected_from_ms for row in claims))
        tasks, stored = _read(table, all_of(at_least("kafka_partition", 0), at_least("connected_to", earliest)))
        changed = _folded(stored, claims, self._settings.watermark_grace_ms)
        if changed is not None:
            _replace(table, tasks, changed)
            expire_snapshots(table)


def fold_all(settings: Settings) -> None:
    """Replace the streams' rows by their unions: earlier releases stored a row per connection.

    Blocks; raises the catalog's errors.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    for attempt in commit_attempts(CommitFailedException, ValidationException):
        with attempt:
            table = load_table(settings, OPS_COVERAGE)
            tasks, stored = _read(table, at_least("kafka_partition", 0))
            changed = _folded(stored, [], settings.watermark_grace_ms)
            if changed is not None:
                _replace(table, tasks, changed)
                expire_snapshots(table)


def change_archive_rows(
    settings: Settings, exchange: str, symbol: str, change: Callable[[list[CoverageRow]], list[CoverageRow]]
) -> None:
    """Replace the archive rows of (exchange, symbol) by the result of `change`.

    Unchanged rows keep their write time, and the streams' rows are kept. Blocks; raises the catalog's errors.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    for attempt in commit_attempts(CommitFailedException, ValidationException):
        with attempt:
            table = load_table(settings, OPS_COVERAGE)
            tasks, stored = _read(table, OF_ARCHIVE)
            before = {
                _row(item): item
                for item in stored
                if _is_of_archive(item) and (item["exchange"], item["symbol"]) == (exchange, symbol)
            }
            after = change(list(before))
            if set(after) == before.keys():
                return
            others = [item for item in stored if _row(item) not in before]
            _replace(table, tasks, [*others, *(before.get(row) or _record(row) for row in after)])
    expire_snapshots(table)


def _read(table: Table, condition: str | BooleanExpression) -> tuple[list[FileScanTask], list[dict[str, Any]]]:
    """Return the files that may have rows of the condition, and the records of these files."""
    tasks, rows = read_touched(table, condition)
    return tasks, rows.to_pylist()


def _folded(
    stored: Iterable[dict[str, Any]], claims: Iterable[CoverageRow], grace_ms: int
) -> list[dict[str, Any]] | None:
    """Return all records after folding the claims into those of the streams; None if nothing changes."""
    rows: defaultdict[Key, dict[CoverageRow, dict[str, Any]]] = defaultdict(dict)
    others: list[dict[str, Any]] = []
    for item in stored:
        if _is_of_archive(item):
            others.append(item)
        else:
            row = _row(item)
            rows[_key(row)][row] = item
    new: defaultdict[Key, list[CoverageRow]] = defaultdict(list)
    for row in claims:
        new[_key(row)].append(row)
    changed = False
    for key in set(new) or set(rows):
        after = fold(rows[key], new[key], grace_ms)
        if set(after) != rows[key].keys():
            changed = True
            rows[key] = {row: rows[key].get(row) or _record(row) for row in after}
    return [*others, *(item for items in rows.values() for item in items.values())] if changed else None


def _key(row: CoverageRow) -> Key:
    return row.exchange, row.symbol, row.stream


def _replace(table: Table, tasks: Iterable[FileScanTask], records: Sequence[dict[str, Any]]) -> None:
    """Replace the files by those of the records: streams and archive, and the closed rows of each, are apart."""
    import pyarrow as pa

    both = ([item for item in records if _is_of_archive(item) is of_archive] for of_archive in (True, False))
    tables = [pa.Table.from_pylist(part, OPS_COVERAGE.arrow_schema()) for part in both]
    replace_touched(table, tasks, [part for rows in tables for part in closed_apart(rows, "connected_to")])


def _is_of_archive(item: Mapping[str, Any]) -> bool:
    """Return whether a record covers the archive, like `CoverageRow.of_archive`."""
    return item["kafka_partition"] is None or bool(item["kafka_partition"] == LOADING)


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
    exchange: str | None = None,
    symbols: Collection[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[CoverageRow]:
    """Return the coverage rows of the exchange and symbols (None: all) that overlap [start, end).

    None means no bound.
    """
    conditions = [] if exchange is None else [equal("exchange", exchange)]
    conditions += [] if symbols is None else [one_of("symbol", symbols)]
    conditions += [] if start is None else [above("connected_to", start)]
    conditions += [] if end is None else [below("connected_from", end)]
    scan = load_table(settings, OPS_COVERAGE).scan(row_filter=all_of(*conditions))
    return [_row(item) for item in scan.to_arrow().to_pylist()]


def streamed_symbols(settings: Settings, start: datetime, end: datetime | None = None) -> frozenset[str]:
    """Return the symbols of the settings' market that a stream received in [start, end).

    Read from coverage, because a symbol selection by pattern or volume does not name its symbols.
    """
    rows = read_coverage(settings, exchange=settings.venue.exchange, start=start, end=end)
    return frozenset(row.symbol for row in rows if not row.of_archive)


@dataclass(frozen=True)
class CoverageExtent:
    """The extent of coverage: its (exchange, symbol), and the ends of streams and archive (ms since 1970)."""

    symbols: frozenset[tuple[str, str]]
    streamed_to_ms: int | None
    archived_to_ms: int | None


def read_coverage_of(
    settings: Settings, exchanges: Collection[str], start: datetime | None, end: datetime | None
) -> tuple[list[CoverageRow], CoverageExtent]:
    """Return the exchanges' rows that overlap [start, end), and the extent of all. None means no bound."""
    table, of_exchanges = load_table(settings, OPS_COVERAGE), one_of("exchange", sorted(exchanges))
    conditions = [] if start is None else [above("connected_to", start)]
    conditions += [] if end is None else [below("connected_from", end)]
    rows = table.scan(row_filter=all_of(of_exchanges, *conditions)).to_arrow()
    ends = [each for task in table.scan().plan_files() for each in _ends_of_file(table, task) if each[0] in exchanges]
    extent = CoverageExtent(
        symbols=frozenset((exchange, symbol) for exchange, symbol, _, _ in ends),
        streamed_to_ms=max((end_ms for _, _, of_archive, end_ms in ends if not of_archive), default=None),
        archived_to_ms=max((end_ms for _, _, of_archive, end_ms in ends if of_archive), default=None),
    )
    return [_row(item) for item in rows.to_pylist()], extent


FileEnds = list[tuple[str, str, bool, int]]  # exchange, symbol, whether of the archive, last end (ms since 1970)

# Data files are immutable, so files of closed rows are read once per process.
_ends_of_files: LRUCache[str, FileEnds] = LRUCache(maxsize=1_000)


def _ends_of_file(table: Table, task: FileScanTask) -> FileEnds:
    """Return the last end of each (exchange, symbol) in a file of coverage, by kind."""
    import pyarrow.compute as pc

    path = task.file.file_path
    if path not in _ends_of_files:
        fields = ("exchange", "symbol", "connected_to", "kafka_partition")
        rows = read_files(table, table.scan(selected_fields=fields), [task])
        rows = rows.append_column("of_archive", pc.less_equal(pc.fill_null(rows["kafka_partition"], LOADING), LOADING))
        ends = rows.group_by(["exchange", "symbol", "of_archive"]).aggregate([("connected_to", "max")])
        _ends_of_files[path] = [
            (row["exchange"], row["symbol"], row["of_archive"], _epoch_ms(row["connected_to_max"]))
            for row in ends.to_pylist()
        ]
    return _ends_of_files[path]


def archive_rows_since(settings: Settings, since: datetime | None) -> list[tuple[CoverageRow, datetime]]:
    """Return the family's archive rows written after `since` whose trades are in Bronze, with their write times."""
    of_family = one_of("exchange", exchanges_of(settings.venue.family))
    conditions = [is_null("kafka_partition")] + ([] if since is None else [above("updated_at", since)])
    rows = load_table(settings, OPS_COVERAGE).scan(row_filter=all_of(of_family, *conditions)).to_arrow().to_pylist()
    return [(_row(item), item["updated_at"]) for item in rows]


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
    """A span of exchange time, ms since 1970, between two covered spans of one (exchange, symbol, stream)."""

    exchange: str
    symbol: str
    stream: str
    from_ms: int
    to_ms: int


def gaps_of(
    table: Table, snapshot_id: int | None = None, *, exchange: str | None = None, symbol: str | None = None
) -> list[CoverageGap]:
    """Return the coverage gaps of a snapshot (None: the current one), in order; of the exchange and symbol, if given.

    A gap lies between the first and last covered moment of an (exchange, symbol, stream), and in none of its rows.
    """
    fields = ("exchange", "symbol", "stream", "connected_from", "connected_to")
    scan = table.scan(row_filter=NOT_LOADING, selected_fields=fields, snapshot_id=snapshot_id)
    of_topic = {"exchange": exchange, "symbol": symbol}
    equals = [equal(name, value) for name, value in of_topic.items() if value is not None]
    rows = scan.filter(all_of(*equals)).to_arrow()
    columns = [(name, "ascending") for name in ("exchange", "symbol", "stream", "connected_from")]
    gaps: list[CoverageGap] = []
    ends: dict[Key, int] = {}
    for row in rows.sort_by(columns).to_pylist():
        key = (row["exchange"], row["symbol"], row["stream"])
        begin_ms, end_ms = _epoch_ms(row["connected_from"]), _epoch_ms(row["connected_to"])
        if key in ends and begin_ms > ends[key]:
            gaps.append(CoverageGap(*key, ends[key], begin_ms))
        ends[key] = max(end_ms, ends.get(key, end_ms))
    return gaps


def _epoch_ms(value: datetime) -> int:
    return round(value.timestamp() * 1000)
