"""Lower bound: DuckDB only reads and sums the columns."""

from __future__ import annotations

import os
import sys

import duckdb

from benchmarks.bare.clock import Clock, report


def main(data: str, _out: str) -> None:
    clock = Clock()
    duck = duckdb.connect()
    duck.execute(f"SET threads = {os.cpu_count()}")
    duck.execute(
        "SELECT count(*), sum(length(symbol)), sum(trade_id), sum(event_time), sum(price), sum(qty), "
        f"sum(is_buyer_maker::INT) FROM read_parquet('{data}/int/*.parquet')"
    ).fetchone()
    report("reading only, DuckDB", clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
