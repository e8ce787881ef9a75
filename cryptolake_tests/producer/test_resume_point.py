"""Parsing the topic's records into the trades of an earlier producer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.kafka.topics import PeekedRecord
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.producer import resume_point
from cryptolake_assets.producer.gap_tracker import KnownTrade, LastTrade
from cryptolake_assets.producer.resume_point import FETCHED_HEADERS, StoredResumePoints, trades_of
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.captures import agg_trade_frame, trade_frame
from cryptolake_tests.support.fakes import NOON_MS


def record(frame: str, *, is_fetched: bool = False, exchange: str = "binance_futures") -> PeekedRecord:
    parsed = parse_frame(frame, ingest_time_us=0, exchange=exchange)
    assert isinstance(parsed, AcceptedFrame)
    return PeekedRecord(0, 0, 0, None, parsed.event.encode(), tuple(FETCHED_HEADERS) if is_fetched else ())


def test_trades_of_the_stream_keep_their_order_and_source() -> None:
    records = [record(trade_frame("BTCUSDT", 9, NOON_MS)), record(trade_frame("BTCUSDT", 7, NOON_MS), is_fetched=True)]
    records += [record(agg_trade_frame("BTCUSDT", 99, NOON_MS)), record(trade_frame("ETHUSDT", 1, NOON_MS))]
    records += [PeekedRecord(0, 0, 0, None, value, ()) for value in (None, b"", b"{}", b"\xff", b'{"symbol":1}')]
    assert trades_of(records, "binance_futures", "trade") == [
        KnownTrade("BTCUSDT", 9, NOON_MS * 1000, is_fetched=False),
        KnownTrade("BTCUSDT", 7, NOON_MS * 1000, is_fetched=True),
        KnownTrade("ETHUSDT", 1, NOON_MS * 1000, is_fetched=False),
    ]
    assert trades_of(records, "binance_futures", "aggTrade") == [
        KnownTrade("BTCUSDT", 99, NOON_MS * 1000, is_fetched=False)
    ]


def test_trades_of_another_exchange_on_the_topic_are_skipped() -> None:
    records = [record(trade_frame("BTCUSDT", number, NOON_MS), exchange=name) for number, name in enumerate("abba")]
    assert [trade.trade_id for trade in trades_of(records, "a", "trade")] == [0, 3]


class InterruptedTopic(StoredResumePoints):
    """A topic whose first reads fail with these errors, and a lake without rows."""

    def __init__(self, settings: Settings, errors: list[Exception]) -> None:
        super().__init__(settings)
        self._errors = errors

    def _in_bronze(self, symbols: Collection[str], stream: str) -> dict[str, LastTrade]:
        return {}

    def _coverage(self, symbols: Collection[str]) -> Sequence[CoverageRow]:
        return ()

    async def _records(self, spans: Mapping[int, tuple[int, int]]) -> Collection[PeekedRecord]:
        if self._errors:
            raise self._errors.pop()
        return [record(agg_trade_frame("BTCUSDT", 99, NOON_MS))]


async def test_topic_is_read_once_the_broker_responds_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_point, "RETRY_S", 0.001)
    topic = InterruptedTopic(Settings(), [BrokerError("away"), TimeoutError(), BrokerError("away")])
    found = await topic.find({"BTCUSDT"}, "aggTrade", {0: 7})
    assert [trade.trade_id for trade in found.on_topic] == [99]


@pytest.mark.parametrize(("error", "wait_s"), [(BrokerAccessError("denied"), 60.0), (BrokerError("away"), 0.0)])
async def test_topic_that_cannot_be_read_is_skipped(
    monkeypatch: pytest.MonkeyPatch, error: BrokerError, wait_s: float
) -> None:
    monkeypatch.setattr(resume_point, "BROKER_WAIT_S", wait_s)
    assert not (await InterruptedTopic(Settings(), [error]).find({"BTCUSDT"}, "aggTrade", {0: 7})).on_topic
