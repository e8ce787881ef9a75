"""Kafka events in the producer's format, from recorded trades."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.feed import SYMBOLS, RecordedFrames
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.model.markets import USD_M

Event = tuple[bytes, bytes, int]  # value, key, partition; one partition per symbol


def events(number: int) -> Iterator[Event]:
    """Yield `number` events with the current time."""
    now_us = time.time_ns() // 1000
    routes = {symbol: (symbol.encode(), partition) for partition, symbol in enumerate(SYMBOLS)}
    for raw in RecordedFrames().take(number, now_us // 1000):
        parsed = parse_frame(raw, ingest_time_us=now_us, exchange=USD_M.exchange)
        assert isinstance(parsed, AcceptedFrame)
        yield (parsed.event.encode(), *routes[parsed.event.symbol])
