"""Records for the trade topic, as the producer writes them."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.kafka.topics import blocking, open_admin
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


async def delete_records_async(settings: Settings, topic: str, before: Mapping[int, int]) -> None:
    """Delete the records below these offsets, by partition, as Kafka's retention does."""
    async with open_admin(settings) as admin:
        await admin.delete_records(
            {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in before.items() if offset}
        )


delete_records = blocking(delete_records_async)
