"""Find each symbol's newest trade in Bronze's newest files; takes a few seconds for any length of history."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptolake_assets.lake.bronze_files import files_between, newest_hour
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.windows import HOUR, epoch_us, moment_of
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.io import FileIO

LOOK_BACK: Final = timedelta(hours=24)  # before the newest trade of all symbols; older trades are not found
MAX_ROWS: Final = 5_000_000  # maximum rows of the files read, newest files first

_COLUMNS: Final = ["symbol", "stream", "exchange", "trade_id", "event_time"]


def newest_trades(
    settings: Settings,
    exchange: str,
    stream: str,
    symbols: Collection[str],
    until_us: Mapping[str, int] | None = None,
) -> dict[str, tuple[int, int]]:
    """Return the id and event time (µs since 1970, UTC) of each found symbol's trade with the highest id.

    `until_us` are the latest event times by symbol; None: no bound. Reads files from the newest trade backwards until
    every symbol is found. Blocks; raises the catalog's errors.
    """
    table = load_table(settings, settings.tables.trades)
    newest = newest_hour(table)
    snapshot = table.current_snapshot()
    if newest is None or snapshot is None:
        return {}
    if until_us:
        newest = moment_of(max(until_us.values()))
    files = files_between(table, snapshot.snapshot_id, newest - LOOK_BACK, newest + HOUR)
    files.sort(key=lambda file: file.latest, reverse=True)
    found: dict[str, tuple[int, int]] = {}
    rows = 0
    # Files overlap in time: also read files that end after the earliest start so far.
    earliest = newest + HOUR
    for file in files:
        found_all = len(found) == len(symbols) and file.latest < earliest
        if found_all or rows >= MAX_ROWS:
            break
        wanted = {"exchange": (exchange,), "symbol": symbols, "stream": (stream,)}
        if not all(_may_hold(file.constants.get(name), values) for name, values in wanted.items()):
            continue
        rows += file.rows
        earliest = min(earliest, file.earliest)
        read = _read(table.io, file.path)
        if until_us:
            read = _until(read, until_us)
        for symbol, last in _newest(read, exchange, stream, symbols).items():
            found[symbol] = max(found.get(symbol, last), last)
    return found


def _may_hold(constant: str | None, values: Collection[str]) -> bool:
    return constant is None or constant in values


def _read(io: FileIO, path: str) -> pa.Table:
    import pyarrow.parquet as pq

    with io.new_input(path).open() as source:
        return pq.ParquetFile(source).read(columns=_COLUMNS)


def _until(rows: pa.Table, until_us: Mapping[str, int]) -> pa.Table:
    """Return the rows of these symbols up to their latest event times."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = {name: rows.schema.field(name).type for name in ("symbol", "event_time")}
    latest = pa.array(until_us.values(), pa.int64()).cast(kinds["event_time"])
    bounds = pa.table({"symbol": pa.array(until_us, kinds["symbol"]), "latest": latest})
    return rows.join(bounds, "symbol", join_type="inner").filter(pc.field("event_time") <= pc.field("latest"))


def _newest(rows: pa.Table, exchange: str, stream: str, symbols: Collection[str]) -> dict[str, tuple[int, int]]:
    import pyarrow.compute as pc

    rows = rows.filter(
        (pc.field("exchange") == exchange) & (pc.field("stream") == stream) & pc.field("symbol").isin(list(symbols))
    )
    highest = rows.group_by("symbol").aggregate([("trade_id", "max")])
    newest = rows.join(
        highest, keys=["symbol", "trade_id"], right_keys=["symbol", "trade_id_max"], join_type="inner"
    ).to_pylist()
    return {row["symbol"]: (row["trade_id"], epoch_us(row["event_time"])) for row in newest}
