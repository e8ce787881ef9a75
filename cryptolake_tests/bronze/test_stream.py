"""The pattern of producer records, tested without Spark."""

from __future__ import annotations

import re

import pytest

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.kafka.kafka_records import KafkaRecordFormat
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import agg_trade_frame

TRADE_RECORDS = KafkaRecordFormat(TRADES.contract)
GOOD = agg_trade_frame("BTCUSDT", 17, 1_700_000_000_000)


def written(frame: str) -> str:
    parsed = parse_frame(frame, ingest_time_us=1_700_000_000_000_000, exchange=USD_M.exchange)
    assert isinstance(parsed, AcceptedFrame)
    return parsed.event.encode().decode()


def test_pattern_matches_every_record_of_the_producer() -> None:
    matches = re.compile(TRADE_RECORDS.written).fullmatch
    assert [bool(matches(written(frame.raw))) for frame in read_frames(DEMO_CAPTURE_DIR)] == [True] * 24_356
    assert matches(written(GOOD))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"event_time":', '"event_time":-'),
        ('"event_time":1', '"event_time":01'),
        ('"event_time":1', '"event_time":11111111111'),
        ('"symbol":"B', '"symbol":"\\\\B'),
        ('"symbol":"B', '"symbol":"\\n'),
        ('"symbol":"B', '"symbol":"","x":"B'),
        ('"price":"', '"price":"1e'),
        ('"qty":"', '"qty":"12345678901234567890'),
        ('"side":"', '"side":null,"x":"'),
        ("{", " {"),
        ("}", "}}"),
        ("}", "}\n"),
    ],
)
def test_pattern_rejects_other_records(old: str, new: str) -> None:
    changed = written(GOOD).replace(old, new, 1)
    assert changed != written(GOOD)
    assert not re.compile(TRADE_RECORDS.written).fullmatch(changed)
