"""Events as the producer writes them to Kafka, made of recorded trades."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.feed import SYMBOLS, RecordedFrames
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.model.markets import USD_M

Event = tuple[bytes, bytes, int]
"""Value, key and partition; each symbol has a partition of its own."""


def events(number: int) -> Iterator[Event]:
    """So many, of the present."""
    now_us = time.time_ns() // 1000
    routes = {symbol: (symbol.encode(), partition) for partition, symbol in enumerate(SYMBOLS)}
    for raw in RecordedFrames().take(number, now_us // 1000):
        parsed = parse_frame(raw, ingest_time_us=now_us, exchange=USD_M.exchange)
        assert isinstance(parsed, AcceptedFrame)
        yield (parsed.event.encode(), *routes[parsed.event.symbol])
