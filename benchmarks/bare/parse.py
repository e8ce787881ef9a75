"""Parse aggregate-trade frames, check their decimals and encode events as JSON, with msgspec alone."""

from __future__ import annotations

import re
import sys
import time

import msgspec

from benchmarks.bare.clock import Clock, report
from benchmarks.feed import RecordedFrames

MAX_TIME_MS = 253_402_300_799_999


class Trade(msgspec.Struct, gc=False):
    E: int
    T: int
    s: str
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741
    m: bool


class Combined(msgspec.Struct, gc=False):
    data: Trade


class Event(msgspec.Struct, gc=False):
    symbol: str
    event_time: int
    price: str
    qty: str
    side: str
    trade_id: int
    exchange: str
    ingest_ts: int
    first_trade_id: int
    last_trade_id: int
    trade_type: str
    stream: str


def main(frames: str) -> None:
    raws = list(RecordedFrames().take(int(frames), time.time_ns() // 1_000_000))
    decode, encode = msgspec.json.Decoder(Combined).decode, msgspec.json.Encoder().encode
    are_decimals = re.compile(r"-?[0-9]{1,10}(?:\.[0-9]{1,8})?\|-?[0-9]{1,10}(?:\.[0-9]{1,8})?").fullmatch
    size = 0
    clock = Clock()
    for raw in raws:
        trade = decode(raw).data
        now_us = time.time_ns() // 1000
        assert are_decimals(f"{trade.p}|{trade.q}")
        assert 0 <= trade.T <= MAX_TIME_MS
        assert trade.f <= trade.l
        side = "sell" if trade.m else "buy"
        event = Event(
            trade.s,
            trade.T * 1000,
            trade.p,
            trade.q,
            side,
            trade.a,
            "binance_futures",
            now_us,
            trade.f,
            trade.l,
            "MARKET",
            "aggTrade",
        )
        size += len(encode(event))
    report("parse, msgspec", clock, frames=len(raws), event_bytes=round(size / len(raws), 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
