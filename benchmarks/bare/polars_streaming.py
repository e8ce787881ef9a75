"""Polars' streaming engine on 1e-8 integers."""

from __future__ import annotations

import sys

import polars as pl

from benchmarks.bare.clock import Clock, report


def main(data: str, out: str) -> None:
    clock = Clock()
    trades = (
        pl.scan_parquet(f"{data}/int/*.parquet")
        .unique(subset=["symbol", "trade_id"], keep="any", maintain_order=False)
        .with_columns(
            minute=pl.col("event_time") // 60_000 * 60_000,
            k=(pl.col("event_time") % 60_000) * (1 << 46) + pl.col("trade_id"),
            quote=pl.col("price").cast(pl.Int128) * pl.col("qty").cast(pl.Int128),
            bought=pl.when(pl.col("is_buyer_maker")).then(0).otherwise(pl.col("qty")),
        )
    )
    bars = (
        trades.group_by("symbol", "minute")
        .agg(
            pl.col("price").min_by("k").alias("o"),
            pl.col("price").max().alias("h"),
            pl.col("price").min().alias("l"),
            pl.col("price").max_by("k").alias("c"),
            pl.col("qty").sum().alias("volume"),
            pl.col("quote").sum().alias("qvol"),
            pl.len().alias("trades"),
            pl.col("bought").sum().alias("taker_buy"),
        )
        .with_columns(vwap=pl.col("qvol").cast(pl.Float64) / pl.col("volume").cast(pl.Float64))
        .sort("symbol", "minute")
        .with_columns(pl.col("qvol").cast(pl.String))
    )
    bars.collect(engine="streaming").write_parquet(out)
    report("Polars, streaming", clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
