"""A numpy kernel for this task: per symbol, sort packed keys, drop equal neighbors, reduce the spans of minutes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bare.clock import Clock, report

LOW = (1 << 22) - 1
COLUMNS = ["symbol", "trade_id", "event_time", "price", "qty", "is_buyer_maker"]


def main(data: str, out: str) -> None:
    clock = Clock()
    table = pq.read_table(f"{data}/int", read_dictionary=["symbol"], columns=COLUMNS)
    table = table.unify_dictionaries().combine_chunks()
    symbols = table["symbol"].chunk(0)
    codes = symbols.indices.to_numpy()
    arrays = {name: table[name].chunk(0).to_numpy(zero_copy_only=False) for name in COLUMNS[1:]}
    parts = [
        _bars(name, np.flatnonzero(codes == code), arrays) for code, name in enumerate(symbols.dictionary.to_pylist())
    ]
    bars = pa.concat_tables(parts).sort_by([("symbol", "ascending"), ("minute", "ascending")])
    pq.write_table(bars, out)
    report("numpy kernel", clock)


def _bars(symbol: str, rows: Any, arrays: dict[str, Any]) -> pa.Table:
    event, ids = arrays["event_time"][rows], arrays["trade_id"][rows]
    first_event, first_id = event.min(), ids.min()
    assert event.max() - first_event < 1 << 28
    assert ids.max() - first_id < 1 << 35
    key = ((event - first_event) << 35) | (ids - first_id)
    order = np.argsort(key)
    key = key[order]
    keep = np.empty(len(key), bool)
    keep[0] = True
    np.not_equal(key[1:], key[:-1], out=keep[1:])
    rows = rows[order[keep]]
    event, price, qty = arrays["event_time"][rows], arrays["price"][rows], arrays["qty"][rows]
    minute = event // 60_000
    start = np.flatnonzero(np.r_[True, minute[1:] != minute[:-1]])
    end = np.r_[start[1:], len(minute)]

    def total(values: Any) -> Any:
        return np.add.reduceat(values, start)

    price_high, price_low, qty_high, qty_low = price >> 22, price & LOW, qty >> 22, qty & LOW
    quote = [
        (int(high) << 44) + (int(middle) << 22) + int(low)
        for high, middle, low in zip(
            total(price_high * qty_high),
            total(price_high * qty_low + price_low * qty_high),
            total(price_low * qty_low),
            strict=True,
        )
    ]
    volume = total(qty)
    return pa.table(
        {
            "symbol": [symbol] * len(start),
            "minute": minute[start] * 60_000,
            "o": price[start],
            "h": np.maximum.reduceat(price, start),
            "l": np.minimum.reduceat(price, start),
            "c": price[end - 1],
            "volume": volume,
            "qvol": [str(value) for value in quote],
            "trades": end - start,
            "taker_buy": total(np.where(arrays["is_buyer_maker"][rows], 0, qty)),
            "vwap": [value / int(traded) for value, traded in zip(quote, volume, strict=True)],
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
