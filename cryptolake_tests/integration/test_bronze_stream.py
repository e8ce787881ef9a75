"""Kafka to Bronze on the real broker and Spark: every record once, invalid records stored with their reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.binance.trade_frames import parse_frame
from cryptolake_assets.bronze.offsets import bronze_lag, committed_offsets
from cryptolake_assets.bronze.stream import checkpoint_lock, events, is_running, rejected, run_available_now
from cryptolake_assets.errors import CheckpointInUseError
from cryptolake_assets.kafka.topics import dead_letter, end_offsets
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.records import RECEIVED_AT_US, event, send

OWN_DAY = "event_time >= '2025-01-01T00:00:00+00:00' AND event_time < '2025-01-02T00:00:00+00:00'"
GARBAGE = b'{"symbol": "BTCUSDT", "price": "12x"}\xff'
TRUNCATED = b'{"stream":"btcusdt@trade","data":{"e":"tra'


def rows(settings: Settings, table: str, where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_sql(settings, f"SELECT * FROM cryptolake.{table} WHERE {where}").to_pylist()
    return found


async def test_every_record_is_stored_once_with_exact_values(platform: Settings) -> None:
    before = bronze_lag(platform)
    await send(platform, *((platform.kafka_topic_futures, event(number), []) for number in range(700, 705)))
    assert bronze_lag(platform) == before + 5
    assert run_available_now(platform) == before + 5
    assert run_available_now(platform) == 0
    assert committed_offsets(platform) == end_offsets(platform, platform.kafka_topic_futures)
    stored = rows(platform, "bronze.futures_trades", f"{OWN_DAY} AND trade_id BETWEEN 700 AND 704 ORDER BY trade_id")
    assert [row["trade_id"] for row in stored] == [700, 701, 702, 703, 704]
    row = stored[0]
    assert f"{row['price']:f}" == "0.00000001"
    assert f"{row['qty']:f}" == "9999999999.99999999"
    assert (row["side"], row["trade_type"], row["stream"]) == ("sell", "MARKET", "trade")
    assert row["event_time"] == datetime(2025, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC)
    assert row["ingest_ts"] == datetime(2025, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)


async def test_invalid_record_is_stored_byte_for_byte_and_the_stream_continues(platform: Settings) -> None:
    frame = parse_frame(TRUNCATED, ingest_time_us=RECEIVED_AT_US, exchange=USD_M.exchange)
    assert isinstance(frame, RejectedFrame)
    value, headers = dead_letter(frame, stream="trade", received_at_us=RECEIVED_AT_US)
    await send(
        platform,
        (platform.kafka_topic_futures, GARBAGE, []),
        (platform.kafka_topic_futures, event(800, price="-1"), []),
        (platform.topic_rejected, value, headers),
    )
    run_available_now(platform)
    stored = {row["raw"]: row for row in rows(platform, "bronze.futures_trades_rejected", "true")}
    assert stored[GARBAGE]["reason"].startswith("not_contract")
    assert stored[TRUNCATED]["reason"] == frame.reason
    assert stored[TRUNCATED]["stream"] == "trade"
    assert stored[TRUNCATED]["ingest_ts"] == datetime(2025, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    assert len(rows(platform, "bronze.futures_trades", f"{OWN_DAY} AND trade_id = 800")) == 1


async def test_trade_with_another_json_layout_is_accepted(platform: Settings) -> None:
    """The fast path for the producer's JSON layout must not change the result for other layouts."""
    fields = json.loads(event(801))
    another = json.dumps(dict(reversed(fields.items())), indent=1).encode()
    without_side = json.dumps({name: value for name, value in fields.items() if name != "side"}).encode()
    repeated_field = event(802)[:-1] + b',"qty":"1e5"}'
    invalid = (b"[1]", b"null", b"", b'"text"', without_side, repeated_field)
    await send(platform, *((platform.kafka_topic_futures, value, []) for value in (another, *invalid)))
    run_available_now(platform)
    stored = {row["raw"] for row in rows(platform, "bronze.futures_trades_rejected", "true")}
    assert another not in stored
    assert stored.issuperset(invalid)
    assert len(rows(platform, "bronze.futures_trades", f"{OWN_DAY} AND trade_id = 801")) == 1
    assert rows(platform, "bronze.futures_trades", f"{OWN_DAY} AND trade_id = 802") == []


def test_each_record_is_parsed_once(platform: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a cache Spark would parse it again for every filtered field."""
    spark = connect(platform)
    for frame in (events(spark, platform, TRADES), rejected(spark, platform, TRADES)):
        capsys.readouterr()
        frame.explain()
        assert capsys.readouterr().out.count("from_json(") == 1


def test_checkpoint_is_locked_by_one_process(platform: Settings) -> None:
    assert not is_running(platform)
    with checkpoint_lock(platform):
        assert is_running(platform)
        with pytest.raises(CheckpointInUseError, match="another process"):
            run_available_now(platform)
    assert not is_running(platform)
