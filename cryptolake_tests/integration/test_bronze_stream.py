"""Kafka to Bronze on the real broker and Spark: every record once, and what is no trade is kept with its reason."""

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


async def test_every_record_is_in_bronze_once_and_exact(platform: Settings) -> None:
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


async def test_what_is_no_trade_is_kept_byte_for_byte_and_the_stream_goes_on(platform: Settings) -> None:
    refused = parse_frame(TRUNCATED, ingest_time_us=RECEIVED_AT_US, exchange=USD_M.exchange)
    assert isinstance(refused, RejectedFrame)
    value, headers = dead_letter(refused, stream="trade", received_at_us=RECEIVED_AT_US)
    await send(
        platform,
        (platform.kafka_topic_futures, GARBAGE, []),
        (platform.kafka_topic_futures, event(800, price="-1"), []),
        (platform.topic_rejected, value, headers),
    )
    run_available_now(platform)
    stored = {row["raw"]: row for row in rows(platform, "bronze.futures_trades_rejected", "true")}
    assert stored[GARBAGE]["reason"].startswith("not_contract")
    assert stored[TRUNCATED]["reason"] == refused.reason
    assert stored[TRUNCATED]["stream"] == "trade"
    assert stored[TRUNCATED]["ingest_ts"] == datetime(2025, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    assert len(rows(platform, "bronze.futures_trades", f"{OWN_DAY} AND trade_id = 800")) == 1


async def test_a_trade_may_be_written_in_another_way_than_the_producers(platform: Settings) -> None:
    """Whatever takes a short way past what the producer writes judges other JSON by its fields all the same."""
    fields = json.loads(event(801))
    another = json.dumps(dict(reversed(fields.items())), indent=1).encode()
    lacking = json.dumps({name: value for name, value in fields.items() if name != "side"}).encode()
    longer = event(802)[:-1] + b',"qty":"1e5"}'
    others = (b"[1]", b"null", b"", b'"text"', lacking, longer)
    await send(platform, *((platform.kafka_topic_futures, value, []) for value in (another, *others)))
    run_available_now(platform)
    stored = {row["raw"] for row in rows(platform, "bronze.futures_trades_rejected", "true")}
    assert another not in stored
    assert stored.issuperset(others)
    assert len(rows(platform, "bronze.futures_trades", f"{OWN_DAY} AND trade_id = 801")) == 1
    assert rows(platform, "bronze.futures_trades", f"{OWN_DAY} AND trade_id = 802") == []


def test_each_record_is_taken_apart_once(platform: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Spark would do it anew for every field that a filter names."""
    spark = connect(platform)
    for frame in (events(spark, platform, TRADES), rejected(spark, platform, TRADES)):
        capsys.readouterr()
        frame.explain()
        assert capsys.readouterr().out.count("from_json(") == 1


def test_one_process_at_a_time_holds_the_checkpoint(platform: Settings) -> None:
    assert not is_running(platform)
    with checkpoint_lock(platform):
        assert is_running(platform)
        with pytest.raises(CheckpointInUseError, match="another process"):
            run_available_now(platform)
    assert not is_running(platform)
