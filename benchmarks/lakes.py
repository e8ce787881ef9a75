"""Lakes for benchmarks: separate homes with Bronze in a known layout, restored between runs.

Layouts: *fresh* has the stream's files (unsorted, one per minute of arrival and hour of event time), *linked* is a
second table over the files of another lake (to compact it without changing the first), *sorted* has the files of a
compaction, written directly. Coverage, the stream's checkpoint and the symbols are set as after a day of live data, so
that bars are complete and no symbol is unknown.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.trades import DAY_MS, HOUR_MS, SYMBOLS, KafkaOffsets, Trades, bronze_rows, by_arrival
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.settings import PORT_FIELDS, Settings, load_settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.manifest import DataFile, ManifestFile
    from pyiceberg.table import Table

    from cryptolake_assets.transform.engines.engine import AggregationEngine
    from cryptolake_assets.transform.silver_candidate import SilverCandidate

PORTS_FILE = "ports.json"
SEALED = "sealed"
SORTED_ROW_GROUP = 131_072  # rows per row group of the directly written sorted files, close to compaction's
_FAR_OFFSET = 10**12
_KAFKA_PARTITIONS = 4


def lake_settings(home: Path, clock_url: str = "", **overrides: Any) -> Settings:
    """Return a lake's settings: the defaults, independent of the environment and `.env`, with the lake's stored ports.

    `clock_url` is the URL of the exchange's clock.
    """
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    ports_file = home / PORTS_FILE
    ports = json.loads(ports_file.read_text()) if ports_file.exists() else {}
    own = {
        "home": home,
        "source": "binance",
        "trade_stream": "trade",
        "symbols": SYMBOLS,
        "start_date": "2025-01-01",
        "exchange_rest_url": clock_url,
        "log_level": "WARNING",
    }
    return load_settings(**{**defaults, **own, **ports, **overrides})


def give_ports(home: Path) -> None:
    """Choose a free port for every port setting and store the ports with the lake."""
    import socket

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORT_FIELDS]
    ports = {field: item.getsockname()[1] for field, item in zip(PORT_FIELDS, sockets, strict=True)}
    for item in sockets:
        item.close()
    home.mkdir(parents=True, exist_ok=True)
    (home / PORTS_FILE).write_text(json.dumps(ports))


def create(home: Path, first_day_ms: int, days: int) -> Settings:
    """Create an empty lake with all tables; by coverage and checkpoint its days were received completely."""
    from cryptolake_assets.binance.stream_types import TRADES
    from cryptolake_assets.bronze.offsets import query_of
    from cryptolake_assets.lake.bootstrap import bootstrap
    from cryptolake_assets.lake.coverage import IcebergCoverageSink
    from cryptolake_assets.lake.stream_checkpoints import checkpoint
    from cryptolake_assets.model.coverage_rows import CoverageRow

    give_ports(home)
    settings = lake_settings(home)
    bootstrap(settings)
    # One row per day: a connection lives for a day.
    IcebergCoverageSink(settings).write(
        [
            CoverageRow(
                exchange=USD_M.exchange,
                symbol=symbol,
                stream="trade",
                connected_from_ms=first_day_ms + day * DAY_MS,
                connected_to_ms=first_day_ms + (day + 1) * DAY_MS + (MINUTE_MS if day == days - 1 else 0),
                kafka_partition=0,
                kafka_offset=_FAR_OFFSET,
                source="benchmarks",
            )
            for day in range(days)
            for symbol in SYMBOLS
        ]
    )
    directory = Path(checkpoint(settings, query_of(TRADES)).removeprefix("file://"))
    offsets = {settings.kafka_topic_futures: {str(number): _FAR_OFFSET for number in range(_KAFKA_PARTITIONS)}}
    for folder, lines in (("offsets", ["v1", "{}", json.dumps(offsets)]), ("commits", ["v1", "{}"])):
        (directory / folder).mkdir(parents=True)
        (directory / folder / "0").write_text("\n".join(lines))
    return settings


def bronze(settings: Settings) -> Table:
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.model.family_tables import FUTURES

    return load_table(settings, FUTURES.trades)


def manifests(table: Table) -> list[ManifestFile]:
    """Return the manifests of the current snapshot."""
    snapshot = table.current_snapshot()
    return list(snapshot.manifests(table.io)) if snapshot else []


def data_files(table: Table, rows: pa.Table) -> list[DataFile]:
    """Write rows as data files of the table, one per partition, in the given order, without a commit."""
    from pyiceberg.io.pyarrow import _dataframe_to_data_files

    properties = {**table.metadata.properties, "write.parquet.row-group-limit": str(SORTED_ROW_GROUP)}
    properties.pop("write.parquet.row-group-size-bytes", None)
    metadata = table.metadata.model_copy(update={"properties": properties})
    return list(_dataframe_to_data_files(metadata, rows, table.io, write_uuid=uuid.uuid4()))


def append(table: Table, files: Iterable[DataFile]) -> None:
    """Commit an append snapshot with these files and one new manifest, like a micro-batch of the stream."""
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
        for file in files:
            snapshot.append_data_file(file)


def write_fresh(settings: Settings, trades: Trades) -> Iterator[float]:
    """Write Bronze like the stream: a file per minute of arrival and hour of event time; a commit per hour of arrival.

    Yields the share of written trades.
    """
    table, offsets, done = bronze(settings), KafkaOffsets(), 0
    for _, hour in by_arrival(trades, HOUR_MS):
        files: list[DataFile] = []
        for _, minute in by_arrival(hour, MINUTE_MS):
            files += data_files(table, bronze_rows(minute, *offsets.assign(minute)))
        append(table, files)
        done += len(hour)
        yield done / len(trades)


def write_minutes(settings: Settings, trades: Trades, offsets: KafkaOffsets) -> None:
    """Write micro-batches: a commit per minute of arrival."""
    table = bronze(settings)
    for _, minute in by_arrival(trades, MINUTE_MS):
        append(table, data_files(table, bronze_rows(minute, *offsets.assign(minute))))


def write_sorted(settings: Settings, hours: Iterable[tuple[Trades, Any, Any]]) -> int:
    """Commit one file per hour, each of (sorted trades, partitions, offsets); return the number of files."""
    table = bronze(settings)
    files = [file for hour in hours for file in data_files(table, bronze_rows(*hour))]
    append(table, files)
    return len(files)


def link(settings: Settings, source: Settings) -> None:
    """Append the files of `source`'s Bronze to this lake's empty Bronze, commit by commit, without copying them."""
    table, origin = bronze(settings), bronze(source)
    for manifest in sorted(manifests(origin), key=lambda item: item.sequence_number):
        append(table, [entry.data_file for entry in manifest.fetch_manifest_entry(origin.io)])


def follow_to_head(settings: Settings) -> None:
    """Advance the quarantine's cursor to the current snapshot of Bronze, as after live operation."""
    from cryptolake_assets.transform.load_inputs import load_run_inputs
    from cryptolake_assets.transform.quarantine import advance_quarantine

    advance_quarantine(settings, bronze(settings), load_run_inputs(settings).rules, "benchmark")


def empty_silver(settings: Settings) -> None:
    """Recreate Silver and the run metrics, so that a rebuild starts with empty tables."""
    from cryptolake_assets.lake.bootstrap import bootstrap
    from cryptolake_assets.lake.catalog import get_catalog
    from cryptolake_assets.model.family_tables import FUTURES
    from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS

    catalog = get_catalog(settings)
    for spec in (FUTURES.bars, OPS_RUN_METRICS):
        location = catalog.load_table(spec.identifier).location().removeprefix("file://")
        catalog.drop_table(spec.identifier)
        shutil.rmtree(location)
    bootstrap(settings)


# Save and restore a lake's state before measurements. No process may be using the lake.


def seal(home: Path) -> None:
    """Save the lake's state: the names of all files, and copies of the mutable ones."""
    sealed = home.with_name(home.name + "." + SEALED)
    shutil.rmtree(sealed, ignore_errors=True)
    (sealed / "copies").mkdir(parents=True)
    names = _names(home)
    for name in names:
        if not _is_fixed(name):
            (sealed / "copies" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(home / name, sealed / "copies" / name)
    (sealed / "names.json").write_text(json.dumps(names))


def is_sealed(home: Path) -> bool:
    return (home.with_name(home.name + "." + SEALED) / "names.json").exists()


def restore(home: Path) -> None:
    """Restore the sealed state of the lake: the same snapshots, and no files of later runs."""
    sealed = home.with_name(home.name + "." + SEALED)
    names = set(json.loads((sealed / "names.json").read_text()))
    for name in _names(home):
        if name not in names:
            (home / name).unlink()
    for name in names:
        if not _is_fixed(name):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(sealed / "copies" / name, home / name)


def _names(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and not path.is_symlink())


def _is_fixed(name: str) -> bool:
    """Return whether a file needs no copy: immutable data files, and the server's scratch files and logs."""
    return "/data/" in name or name.startswith(("spark/", "logs/")) or name == PORTS_FILE


def rebuild(settings: Settings, engine: AggregationEngine, first: datetime, last: datetime) -> list[SilverCandidate]:
    """Recompute every minute of Silver's hours in [first, last)."""
    from cryptolake_assets.transform.silver_run import run_silver

    hours = [first + timedelta(hours=number) for number in range((last - first) // timedelta(hours=1))]
    return [candidate for day in run_silver(settings, engine, hours, "benchmark") for candidate in day.candidates]
