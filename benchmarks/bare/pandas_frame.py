"""pandas on 1e-8 integers; price times quantity is summed as four partial products that fit 64 bits."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.parquet as pq

from benchmarks.bare.clock import Clock, report

LOW = (1 << 22) - 1
COLUMNS = ["symbol", "trade_id", "event_time", "price", "qty", "is_buyer_maker"]


def main(data: str, out: str) -> None:
    import pandas  # noqa: F401  to_pandas imports it: exclude the import from the timing

    clock = Clock()
    table = pq.read_table(f"{data}/int", read_dictionary=["symbol"], columns=COLUMNS).unify_dictionaries()
    trades = table.to_pandas(self_destruct=True, split_blocks=True)
    del table
    trades = trades.drop_duplicates(["symbol", "trade_id"]).sort_values(["symbol", "event_time", "trade_id"])
    trades["minute"] = trades.event_time // 60_000 * 60_000
    price, qty = trades.price.to_numpy(), trades.qty.to_numpy()
    for i, p in enumerate((price >> 22, price & LOW)):
        for j, q in enumerate((qty >> 22, qty & LOW)):
            trades[f"x{i}{j}"] = p * q
    trades["bought"] = np.where(trades.is_buyer_maker.to_numpy(), 0, qty)
    partial = {f"x{i}{j}": (f"x{i}{j}", "sum") for i in (0, 1) for j in (0, 1)}
    bars = (
        trades.groupby(["symbol", "minute"], observed=True, sort=True)
        .agg(
            o=("price", "first"),
            h=("price", "max"),
            l=("price", "min"),
            c=("price", "last"),
            volume=("qty", "sum"),
            trades=("price", "size"),
            taker_buy=("bought", "sum"),
            **partial,
        )
        .reset_index()
    )
    quote = [
        (int(hh) << 44) + ((int(hl) + int(lh)) << 22) + int(ll)
        for hh, hl, lh, ll in zip(bars.x00, bars.x01, bars.x10, bars.x11, strict=True)
    ]
    bars["qvol"] = [str(value) for value in quote]
    bars["vwap"] = [value / int(volume) for value, volume in zip(quote, bars.volume, strict=True)]
    bars["symbol"] = bars.symbol.astype(str)
    bars.drop(columns=list(partial)).to_parquet(out)
    report("pandas", clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
