"""Read the trades of single minutes from Bronze, and find the minutes with trades that Silver does not contain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cryptolake_assets.lake.bronze_files import BronzeFile, files_between, newest_hour, scan_trades
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.published_hours import OffsetsByHour
from cryptolake_assets.live.minute import MinuteKey
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.measures import DUCKDB
from cryptolake_assets.model.windows import HOUR, MINUTE, MINUTE_US, epoch_us, hour_of, moment_of
from cryptolake_assets.quality.rules import sql_time

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

HOURS: Final = 2  # newest hours that are searched for trades that Silver lacks
_TIMES: Final = frozenset({"event_time", "ingest_ts"})
_DECIMALS: Final = frozenset({"price", "qty"})
_FIELDS: Final = ", ".join(
    f"epoch_us({name})" if name in _TIMES else f"CAST({name} AS varchar)" if name in _DECIMALS else name
    for name in TradeEvent.__struct_fields__
)


@dataclass
class StoredMinute:
    """All trades of a minute in Bronze, also duplicates, as the topic has them; decimals have all their places."""

    trades: list[TradeEvent] = field(default_factory=list)
    next_offsets: dict[int, int] = field(default_factory=dict)  # after its last record, by Kafka partition

    def add(self, trade: TradeEvent, partition: int | None, offset: int | None) -> None:
        """Add a trade; one of the archive has no partition."""
        self.trades.append(trade)
        if partition is not None and offset is not None:
            self.next_offsets[partition] = max(offset + 1, self.next_offsets.get(partition, 0))


def latest_trade_us(table: Table, latest: datetime) -> int:
    """Return a time (µs since 1970, UTC) after which the table has no trade up to `latest`; 0 without trades."""
    newest = newest_hour(table)
    if newest is None:
        return 0
    if newest > latest:
        return epoch_us(latest)
    return max((epoch_us(file.latest) for file in _files(table, newest, newest + HOUR)), default=0)


def minutes_lacking(table: Table, contained: OffsetsByHour, latest: datetime, limit: int) -> list[MinuteKey]:
    """Return the newest `limit` minutes of the newest hours with records at or above the offsets that Silver contains.

    The newest hour is that of the newest trade, but not after `latest`.
    Hours before the oldest known ones are left out: they are of an earlier release.
    """
    newest = newest_hour(table)
    if newest is None or not contained:
        return []
    found: list[MinuteKey] = []
    for hour in (min(newest, hour_of(latest)) - number * HOUR for number in range(HOURS)):
        files = list(_files(table, hour, hour + HOUR))
        if not files or hour < min(contained):
            continue
        with open_duckdb() as duck:
            rows = duck.sql(
                f"SELECT DISTINCT epoch_us({DUCKDB.minute}), exchange, symbol FROM {scan_trades(duck, files)} "
                f"WHERE event_time >= {sql_time(hour)} AND event_time < {sql_time(hour + HOUR)} "
                f"AND {_is_lacking(contained.get(hour, {}))}"
            ).fetchall()
        found += [(start_us, (exchange, symbol)) for start_us, exchange, symbol in rows]
    return sorted(found, reverse=True)[:limit]


def _is_lacking(offsets: Mapping[int, int]) -> str:
    cases = " ".join(f"WHEN {partition} THEN kafka_offset >= {offset}" for partition, offset in sorted(offsets.items()))
    return f"CASE kafka_partition {cases} ELSE kafka_partition IS NOT NULL END" if cases else "kafka_offset IS NOT NULL"


def stored_minutes(table: Table, keys: Collection[MinuteKey]) -> dict[MinuteKey, StoredMinute]:
    """Return what Bronze has of these minutes; minutes without a trade are missing."""
    found: defaultdict[MinuteKey, StoredMinute] = defaultdict(StoredMinute)
    by_hour: defaultdict[int, list[MinuteKey]] = defaultdict(list)
    for key in keys:
        by_hour[key[0] // (60 * MINUTE_US)].append(key)
    for of_hour in by_hour.values():
        first, last = moment_of(min(of_hour)[0]), moment_of(max(of_hour)[0]) + MINUTE
        files = list(_files(table, first, last))
        if not files:
            continue
        with open_duckdb() as duck:
            duck.register("minutes", _minutes(of_hour))
            cursor = duck.execute(
                f"SELECT kafka_partition, kafka_offset, {_FIELDS} FROM {scan_trades(duck, files)} AS trades "
                f"SEMI JOIN minutes ON minutes.exchange = trades.exchange AND minutes.symbol = trades.symbol "
                f"AND minutes.start_us = epoch_us({DUCKDB.minute})"
            )
            while rows := cursor.fetchmany(10_000):
                for partition, offset, *fields in rows:
                    trade = TradeEvent(*fields)
                    key = trade.event_time // MINUTE_US * MINUTE_US, (trade.exchange, trade.symbol)
                    found[key].add(trade, partition, offset)
    return dict(found)


def _files(table: Table, first: datetime, last: datetime) -> Iterator[BronzeFile]:
    snapshot = table.current_snapshot()
    return iter(files_between(table, snapshot.snapshot_id, first, last) if snapshot is not None else ())


def _minutes(keys: Collection[MinuteKey]) -> pa.Table:
    import pyarrow as pa

    rows = [{"exchange": topic[0], "symbol": topic[1], "start_us": start_us} for start_us, topic in keys]
    return pa.Table.from_pylist(rows)
