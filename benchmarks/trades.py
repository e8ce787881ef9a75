"""Seeded trades of full UTC days, as plain Parquet for the bare scripts and as Bronze rows for the lake.

Five symbols with different sizes of prices and quantities; trade ids in order of time; network jitter; 1 of 1,000
trades up to 5 minutes late; 1 of 200 trades with a duplicate up to 10 minutes later. Rows are in order of arrival. The
same parameters give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT")
DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
FIRST_TRADE_ID = 5_000_000_000
PLAIN_FILES = 16

_SHARE = (0.35, 0.30, 0.15, 0.12, 0.08)
_PRICE = (60_000.0, 3_000.0, 150.0, 0.6, 0.12)
_TICK_E8 = (10_000_000, 1_000_000, 100_000, 10_000, 1_000)
_STEP_E8 = (100_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
_KAFKA_PARTITION = (0, 1, 2, 3, 0)
_KAFKA_DELAY_MS = 6
_JITTER_MS = 60.0
_LATE_SHARE, _LATE_MS = 0.001, 300_000
_DUPLICATE_SHARE, _DUPLICATE_MS = 0.005, 600_000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Trades:
    """Columns of equal length. `symbol` is an index into SYMBOLS; `_e8` are units of 1e-8."""

    symbol: NDArray[np.int8]
    trade_id: Ints
    event_ms: Ints
    price_e8: Ints
    qty_e8: Ints
    buyer_is_maker: NDArray[np.bool_]
    arrival_us: Ints

    def __len__(self) -> int:
        return len(self.trade_id)

    def take(self, rows: Any) -> Trades:
        """Return the rows selected by a slice, a mask or an array of positions."""
        return Trades(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def make_day(day_ms: int, trades: int, seed: int, first_trade_id: int = FIRST_TRADE_ID) -> Trades:
    """Return the UTC day from `day_ms`: about `trades` distinct trades and their duplicates, in order of arrival.

    Every symbol's ids start at `first_trade_id`.
    """
    rng = np.random.default_rng(seed)
    parts: list[Trades] = []
    for index in range(len(SYMBOLS)):
        distinct = _symbol_day(rng, index, day_ms, int(trades * _SHARE[index]), first_trade_id)
        duplicates = distinct.take(rng.choice(len(distinct), int(len(distinct) * _DUPLICATE_SHARE), replace=False))
        delay_us = (rng.uniform(0, _DUPLICATE_MS, len(duplicates)) * 1000).astype(np.int64)
        parts += [distinct, Trades(**{**vars(duplicates), "arrival_us": duplicates.arrival_us + delay_us})]
    columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Trades)}
    day = Trades(**columns)
    del parts, columns
    return day.take(np.argsort(day.arrival_us, kind="stable"))


def _symbol_day(rng: np.random.Generator, index: int, day_ms: int, number: int, first_trade_id: int) -> Trades:
    """Return a symbol's distinct trades in order of event time."""
    event_ms = np.sort(rng.integers(0, DAY_MS, number)) + day_ms
    walk = _PRICE[index] * np.exp(np.cumsum(rng.normal(0, 2e-6, number)))
    price = np.round(walk * 1e8 / _TICK_E8[index]).astype(np.int64) * _TICK_E8[index]
    size = rng.lognormal(0, 1.5, number) * (3_000 / _PRICE[index]) * 1e8 / 20 / _STEP_E8[index]
    qty = np.maximum(1, np.round(size)).astype(np.int64) * _STEP_E8[index]
    arrival_ms = event_ms + rng.exponential(_JITTER_MS, number)
    late = rng.random(number) < _LATE_SHARE
    arrival_ms[late] += rng.uniform(0, _LATE_MS, int(late.sum()))
    return Trades(
        symbol=np.full(number, index, np.int8),
        trade_id=np.arange(number, dtype=np.int64) + first_trade_id,
        event_ms=event_ms,
        price_e8=price,
        qty_e8=qty,
        buyer_is_maker=rng.random(number) < 0.5,
        arrival_us=(arrival_ms * 1000).astype(np.int64),
    )


def by_arrival(trades: Trades, width_ms: int) -> Iterator[tuple[int, Trades]]:
    """Yield (start in ms, trades that arrived in [start, start + width_ms)); `trades` is in order of arrival."""
    first, last = int(trades.arrival_us[0]) // 1000, int(trades.arrival_us[-1]) // 1000
    edges = np.arange(first // width_ms, last // width_ms + 2, dtype=np.int64) * width_ms
    bounds = np.searchsorted(trades.arrival_us, edges * 1000)
    for start, low, high in zip(edges[:-1], bounds[:-1], bounds[1:], strict=True):
        if high > low:
            yield int(start), trades.take(slice(low, high))


def sorted_hours(trades: Trades) -> Iterator[tuple[int, Trades]]:
    """Yield (event hour in ms, its trades by symbol name, event time, trade id), in the order of compacted files."""
    by_name = np.argsort(np.argsort(SYMBOLS))
    hour = trades.event_ms // HOUR_MS
    order = np.lexsort((trades.trade_id, trades.event_ms, by_name[trades.symbol], hour))
    edges = np.flatnonzero(np.diff(hour[order], prepend=-1, append=-1))
    for low, high in pairwise(edges):
        rows = order[low:high]
        yield int(hour[rows[0]]) * HOUR_MS, trades.take(rows)


class KafkaOffsets:
    """Assign Kafka partitions and offsets to trades in order of arrival, like a producer keyed by symbol."""

    def __init__(self) -> None:
        self._next = np.zeros(max(_KAFKA_PARTITION) + 1, np.int64)

    def assign(self, trades: Trades) -> tuple[NDArray[np.int32], Ints]:
        partition = np.array(_KAFKA_PARTITION, np.int32)[trades.symbol]
        offset = np.empty(len(trades), np.int64)
        for number in range(len(self._next)):
            rows = np.flatnonzero(partition == number)
            offset[rows] = np.arange(len(rows)) + self._next[number]
            self._next[number] += len(rows)
        return partition, offset


def bronze_rows(trades: Trades, partition: NDArray[np.int32], offset: Ints) -> pa.Table:
    """Return rows of `bronze.futures_trades`, all columns; Kafka's time is the receipt in whole ms plus 0 to 5 ms."""
    from cryptolake_assets.model.family_tables import FUTURES

    number = len(trades)
    ids = pa.array(trades.trade_id)
    kafka_ms = trades.arrival_us // 1000 + trades.trade_id * 7919 % _KAFKA_DELAY_MS
    columns = {
        "symbol": _named(trades.symbol, SYMBOLS),
        "event_time": _times(trades.event_ms * 1000),
        "price": _decimals(trades.price_e8, 18),
        "qty": _decimals(trades.qty_e8, 18),
        "side": _named(trades.buyer_is_maker.astype(np.int8), ("buy", "sell")),
        "trade_id": ids,
        "exchange": _constant("binance_futures", number),
        "ingest_ts": _times(trades.arrival_us),
        "first_trade_id": ids,
        "last_trade_id": ids,
        "trade_type": _constant("MARKET", number),
        "stream": _constant("trade", number),
        "kafka_partition": pa.array(partition),
        "kafka_offset": pa.array(offset),
        "kafka_timestamp": _times(kafka_ms * 1000),
    }
    return pa.table(columns).select(list(FUTURES.trades.column_names)).cast(FUTURES.trades.arrow_schema())


def write_plain(trades: Trades, directory: Path) -> None:
    """Write the bare scripts' input: `int/` with prices and quantities in 1e-8 units, `dec/` with decimal(38,18)."""
    import pyarrow.parquet as pq

    for kind in ("int", "dec"):
        (directory / kind).mkdir(parents=True, exist_ok=True)
    for number in range(PLAIN_FILES):
        low, high = (bound * len(trades) // PLAIN_FILES for bound in (number, number + 1))
        part = trades.take(slice(low, high))
        columns = {
            "symbol": _named(part.symbol, SYMBOLS),
            "trade_id": pa.array(part.trade_id),
            "event_time": pa.array(part.event_ms),
            "price": pa.array(part.price_e8),
            "qty": pa.array(part.qty_e8),
            "is_buyer_maker": pa.array(part.buyer_is_maker),
        }
        decimals = {"price": _decimals(part.price_e8, 38, 18), "qty": _decimals(part.qty_e8, 38, 18)}
        for kind, values in (("int", columns), ("dec", {**columns, **decimals})):
            pq.write_table(pa.table(values), directory / kind / f"{number:02d}.parquet", compression="zstd")


def _named(codes: NDArray[np.int8], names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names)).cast(pa.string())


def _constant(value: str, number: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), number)


def _times(microseconds: Ints) -> pa.Array:
    return pa.array(microseconds).cast(pa.timestamp("us", "UTC"))


def _decimals(units_e8: Ints, precision: int, scale: int = 8) -> pa.Array:
    """Return decimals of the given type from integers in 1e-8 units, without floats."""
    integers = pa.array(units_e8).cast(pa.decimal128(20, 0))
    scaled = pa.Array.from_buffers(pa.decimal128(20, 8), len(integers), integers.buffers())
    return scaled.cast(pa.decimal128(precision, scale))
