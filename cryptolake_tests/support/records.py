"""Records for the trade topic, as the producer writes them."""

from __future__ import annotations

from aiokafka import AIOKafkaProducer

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.captures import trade_frame

RECEIVED_AT_US = 1_735_689_600_123_456
TRADE_TIME_MS = 1_735_689_600_001
"""2025-01-01, a day that no other test writes to."""


async def send(settings: Settings, *records: tuple[str, bytes, list[tuple[str, bytes]]]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:
        for topic, value, headers in records:
            await producer.send_and_wait(topic, value, headers=headers)


def event(trade_id: int, price: str = "0.00000001", exchange: str = USD_M.exchange) -> bytes:
    frame = trade_frame("BTCUSDT", trade_id, TRADE_TIME_MS, price, "9999999999.99999999", is_buyer_maker=True)
    parsed = parse_frame(frame.encode(), ingest_time_us=RECEIVED_AT_US, exchange=exchange)
    assert isinstance(parsed, AcceptedFrame)
    return parsed.event.encode()
