"""Write capture directories of the other markets for tests.

COIN-M: each line of a recorded day of the public archive becomes a frame, as the stream sends an aggregate (`e`, `E`,
`a`, `s`, `p`, `q`, `f`, `l`, `T`, `m`); the event time equals the trade time. The klines are computed from the same
lines, because none were recorded: volume in contracts, quote volume in the base currency.

Spot: frames with the documented fields (no `X`, but `M`) and the values of recorded order-book trades of USD-M futures,
with the recorded klines of the latter.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from cryptolake_assets.captures.market_of_capture import MARKET_FILE
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.model.exchange_records import KLINE_HEADER
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.archives import Aggregate
from cryptolake_tests.support.captures import write_capture

COIN_SYMBOL = "BTCUSD_PERP"
CONTRACT_USD = Decimal(100)
"""Value of a BTCUSD_PERP contract."""
RECORDED_DAY = Path(__file__).parents[1] / "data" / f"{COIN_SYMBOL}-aggTrades-2026-05-08.zip"


def recorded_coin_aggregates(number: int) -> list[Aggregate]:
    """Return the first `number` lines of the recorded day."""
    with zipfile.ZipFile(RECORDED_DAY) as archive:
        lines = archive.read(archive.namelist()[0]).decode().splitlines()
    rows = (line.split(",") for line in lines if line[:1].isdigit())
    return [
        Aggregate(int(row[0]), row[1], row[2], int(row[3]), int(row[4]), int(row[5]), row[6].lower() == "true")
        for row in islice(rows, number)
    ]


def coin_capture(directory: Path, number: int = 1_500) -> list[Aggregate]:
    """Write a COIN-M capture of `number` aggregates; return them."""
    rows = recorded_coin_aggregates(number)
    frames = ((row.time_ms * 10**6, json.dumps(_combined("aggTrade", _aggregate(row)))) for row in rows)
    write_capture(directory / "coin.ndjson.gz", frames)
    lines = [",".join(KLINE_HEADER), *(",".join(kline) for kline in _coin_klines(rows))]
    (directory / f"{COIN_SYMBOL}-1m-made.csv").write_text("\n".join(lines) + "\n")
    (directory / MARKET_FILE).write_text(Market.COIN_M)
    return rows


def spot_capture(directory: Path) -> list[dict[str, Any]]:
    """Write a Spot capture of `trade` frames; return their data objects."""
    events, frames = [], []
    for frame in read_frames(DEMO_CAPTURE_DIR):
        recorded = json.loads(frame.raw)["data"]
        if recorded["X"] == "MARKET":
            event = {name: recorded[name] for name in ("e", "E", "s", "t", "p", "q", "T", "m")} | {"M": True}
            events.append(event)
            frames.append((frame.receive_time_ns, json.dumps(_combined("trade", event))))
    write_capture(directory / "spot.ndjson.gz", frames)
    for path in DEMO_CAPTURE_DIR.glob("*-1m-*.csv"):
        shutil.copy(path, directory)
    (directory / MARKET_FILE).write_text(Market.SPOT)
    return events


def _combined(kind: str, event: dict[str, Any]) -> dict[str, Any]:
    return {"stream": f"{event['s'].lower()}@{kind}", "data": event}


def _aggregate(row: Aggregate) -> dict[str, Any]:
    event = {"e": "aggTrade", "E": row.time_ms, "a": row.agg_id, "s": COIN_SYMBOL, "p": row.price, "q": row.qty}
    return event | {"f": row.first_id, "l": row.last_id, "T": row.time_ms, "m": row.maker}


def _coin_klines(rows: list[Aggregate]) -> Iterator[list[str]]:
    for minute, group in groupby(rows, key=lambda row: row.time_ms // MINUTE_MS):
        trades = list(group)
        prices = [Decimal(row.price) for row in trades]
        bought = [row for row in trades if not row.maker]
        yield [
            str(minute * MINUTE_MS),
            *(str(price) for price in (prices[0], max(prices), min(prices), prices[-1])),
            str(sum((Decimal(row.qty) for row in trades), Decimal(0))),
            str((minute + 1) * MINUTE_MS - 1),
            _base(trades),
            str(sum(row.last_id - row.first_id + 1 for row in trades)),
            str(sum((Decimal(row.qty) for row in bought), Decimal(0))),
            _base(bought),
            "0",
        ]


def _base(rows: list[Aggregate]) -> str:
    """Return the base currency value of the contracts, rounded to 8 digits as in klines."""
    return f"{sum((Decimal(row.qty) * CONTRACT_USD / Decimal(row.price) for row in rows), Decimal(0)):.8f}"
