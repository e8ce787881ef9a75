"""Kafka to Bronze on the real broker and Spark: every record once, invalid records stored with their reason."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.binance.stream_types import SPOT_TRADES, TRADES
from cryptolake_assets.binance.trade_frames import parse_frame
from cryptolake_assets.bronze.offsets import (
    bronze_lag,
    committed_offsets,
    lags_in_use,
    query_ids,
    query_of,
    read_report,
    trade_progress,
)
from cryptolake_assets.bronze.stream import events, is_running, rejected, run_available_now
from cryptolake_assets.bronze.stream_health import ProgressHistory, StreamHealth, StreamSignals
from cryptolake_assets.errors import CheckpointInUseError
from cryptolake_assets.kafka.topics import dead_letter, end_offsets, ensure_topics
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.lake.stream_checkpoints import checkpoint, checkpoint_lock
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.model.markets import USD_M, Market
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import BRONZE
from cryptolake_assets.platform.status import PartStatus, status
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.records import RECEIVED_AT_US, delete_records, event, send
from cryptolake_tests.support.replaying import kill
from cryptolake_tests.support.waiting import wait_for

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


@pytest.fixture
def both(platform: Settings) -> Settings:
    """The platform, which tracks Spot in addition to USD-M."""
    settings = platform.model_copy(update={"markets": (Market.USD_M, Market.SPOT)})
    created = ensure_topics(settings)
    assert set(created) == {
        *("binance_futures_realtime", "binance_futures_realtime_rejected"),
        *("binance_spot_realtime", "binance_spot_realtime_rejected"),
    }
    return settings


def trades_of(view: Settings, *ids: int) -> list[tuple[str, bytes, list[tuple[str, bytes]]]]:
    """Return records of trades with these ids for the market's topic."""
    return [(view.topic_trades, event(number, exchange=view.venue.exchange), []) for number in ids]


def stored_ids(view: Settings, first: int, last: int) -> list[tuple[str, int]]:
    """Return exchange and id of the trades in the table of the market's family, by id."""
    where = f"{OWN_DAY} AND trade_id BETWEEN {first} AND {last} ORDER BY trade_id"
    found = rows(view, f"bronze.{view.tables.trades.name}", where)
    return [(row["exchange"], row["trade_id"]) for row in found]


def bronze_status(settings: Settings) -> PartStatus:
    (row,) = (row for row in status(settings) if row.name == BRONZE)
    return row


async def test_each_family_has_its_own_tables_topics_and_checkpoints(both: Settings) -> None:
    """The same symbol and trade ids on both markets, and two rejected records of each."""
    futures, spot = both.each_market
    run_available_now(both)
    await send(
        both,
        *trades_of(futures, 1_000, 1_001, 1_002),
        *trades_of(spot, 1_001, 1_002),
        *((view.topic_trades, b"{}", []) for view in (futures, spot)),
        *((view.topic_rejected, view.market.encode(), []) for view in (futures, spot)),
    )
    assert sum(lag.records for lag in lags_in_use(both)) == run_available_now(both) == 7
    assert run_available_now(both) == 0
    assert {lag.topic for lag in lags_in_use(both)} == {"binance_futures_realtime", "binance_spot_realtime"}
    assert stored_ids(futures, 1_000, 1_009) == [("binance_futures", number) for number in (1_000, 1_001, 1_002)]
    assert stored_ids(spot, 1_000, 1_009) == [("binance_spot", number) for number in (1_001, 1_002)]
    for view, other in ((futures, spot), (spot, futures)):
        found = {row["raw"]: row["kafka_topic"] for row in rows(both, f"bronze.{view.tables.rejected.name}", "true")}
        assert (found[b"{}"], found[view.market.encode()]) == (view.topic_trades, view.topic_rejected)
        assert other.market.encode() not in found
        assert committed_offsets(view) == end_offsets(view, view.topic_trades)
    assert committed_offsets(both, SPOT_TRADES) != committed_offsets(both, TRADES)
    assert len(query_ids(both)) >= 4, "two queries of each family, and those that other tests ran here"


async def test_running_stream_stores_both_families_once_over_kills(both: Settings) -> None:
    """The part runs with its own environment; records arrive before, between and after two kills."""
    live = both.model_copy(update={"bronze_trigger_s": 1.0})
    lifecycle.up(live, [BRONZE])
    try:
        for first in (2_000, 2_010, 2_020):
            for view in live.each_market:
                await send(live, *trades_of(view, *range(first, first + 10)))
            if first < 2_020:
                kill(live, BRONZE)
        wait_for(lambda: all(lag.records == 0 for lag in lags_in_use(live)), timeout_s=120)
        wait_for(lambda: bronze_status(live).state == "running", timeout_s=60)
        wait_for(lambda: set(read_report(live) or ()) >= {"bronze_futures_trades", "bronze_spot_trades"}, timeout_s=60)
        assert bronze_status(live).lag == 0
        assert re.fullmatch(
            r"futures_trades: \d+ records, lag 0; spot_trades: \d+ records, lag 0", bronze_status(live).detail
        )
    finally:
        lifecycle.stop(live, BRONZE)
    for view in live.each_market:
        assert stored_ids(view, 2_000, 2_999) == [(view.venue.exchange, number) for number in range(2_000, 2_030)]


async def test_stalled_spot_trades_are_seen_while_futures_trades_move(both: Settings, platform: Settings) -> None:
    """The futures queries run and those of Spot do not."""
    run_available_now(both)
    histories = {progress.table: ProgressHistory(well_at=0.0) for progress in trade_progress(both)}
    verdicts = {}
    for number in range(3):
        for view in both.each_market:
            await send(both, *trades_of(view, 3_000 + number))
        run_available_now(platform)
        for progress in trade_progress(both):
            signals = StreamSignals(progress.table, "running", 1.0, progress.committed, progress.lag)
            verdicts[progress.table] = histories[progress.table].judge(signals, number * 60.0, 100.0)
    assert verdicts["futures_trades"].health is StreamHealth.GOOD
    assert verdicts["spot_trades"].health is StreamHealth.FAILED
    assert verdicts["spot_trades"].reason == "spot_trades: no progress while Kafka holds 3 more records, for 120 s"
    run_available_now(both)


async def test_damaged_and_deleted_checkpoints_are_recovered_without_duplicates(platform: Settings) -> None:
    location = Path(checkpoint(platform, query_of(TRADES)).removeprefix("file://"))
    await send(platform, *trades_of(platform, 4_000))
    run_available_now(platform)
    offsets = max((path for path in (location / "offsets").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    offsets.write_text(offsets.read_text()[:-10])
    await send(platform, *trades_of(platform, 4_001))
    run_available_now(platform)
    shutil.rmtree(location)
    await send(platform, *trades_of(platform, 4_002))
    run_available_now(platform)
    assert [number for _, number in stored_ids(platform, 4_000, 4_009)] == [4_000, 4_001, 4_002]


async def test_stream_continues_after_records_that_kafka_deleted(platform: Settings) -> None:
    run_available_now(platform)
    topic = platform.topic_trades
    await send(platform, *trades_of(platform, 4_100, 4_101))
    delete_records(platform, topic, end_offsets(platform, topic))
    await send(platform, *trades_of(platform, 4_102))
    run_available_now(platform)
    assert [number for _, number in stored_ids(platform, 4_100, 4_109)] == [4_102]
    assert committed_offsets(platform) == end_offsets(platform, topic)
