"""DuckDB on 1e-8 integers, one event hour at a time to save memory: a trade and its duplicates share the event time."""

from __future__ import annotations

import os
import sys

import duckdb

from benchmarks.bare.clock import Clock, report

BARS = """
SELECT symbol, event_time // 60000 * 60000 AS minute,
  arg_min(price, k) AS o, max(price) AS h, min(price) AS l, arg_max(price, k) AS c,
  sum(qty) AS volume, sum(price::HUGEINT * qty::HUGEINT) AS qvol, count(*) AS trades,
  sum(CASE WHEN is_buyer_maker THEN 0 ELSE qty END) AS taker_buy
FROM (
  SELECT *, ((event_time % 60000) << 46) | trade_id AS k FROM (
    SELECT symbol, trade_id, any_value(event_time) AS event_time, any_value(price) AS price, any_value(qty) AS qty,
      any_value(is_buyer_maker) AS is_buyer_maker
    FROM read_parquet('{data}/int/*.parquet') WHERE event_time >= {first} AND event_time < {last}
    GROUP BY ALL
  )
) GROUP BY 1, 2
"""
HOUR_MS = 3_600_000


def main(data: str, out: str) -> None:
    clock = Clock()
    duck = duckdb.connect()
    duck.execute(f"SET threads = {os.cpu_count()}")
    duck.execute("SET preserve_insertion_order = false")
    span = duck.execute(
        f"SELECT min(event_time) // {HOUR_MS}, max(event_time) // {HOUR_MS} FROM read_parquet('{data}/int/*.parquet')"
    ).fetchone()
    assert span is not None
    for hour in range(span[0], span[1] + 1):
        sql = BARS.format(data=data, first=hour * HOUR_MS, last=(hour + 1) * HOUR_MS)
        duck.execute(("CREATE TABLE bars AS " if hour == span[0] else "INSERT INTO bars ") + sql)
    # As text: a HUGEINT in Parquet would become a DOUBLE.
    duck.execute(
        "COPY (SELECT * REPLACE (qvol::VARCHAR AS qvol, volume::VARCHAR AS volume, taker_buy::VARCHAR AS taker_buy), "
        f"qvol::DOUBLE / volume::DOUBLE AS vwap FROM bars ORDER BY symbol, minute) TO '{out}' (FORMAT parquet)"
    )
    report("DuckDB, hour by hour", clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
