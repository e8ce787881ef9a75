"""The extra streams on the real broker, Spark and catalog, and in the graph; and a stream of another exchange, which is
just an adapter and a contract."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from cryptolake_assets.binance.depth_frames import SNAPSHOTS_OF_FAMILY, STREAMS, parse_snapshot
from cryptolake_assets.binance.stream_type import MinuteStream
from cryptolake_assets.binance.stream_types import EXTRA_STREAM_TYPES, MINUTE_STREAMS
from cryptolake_assets.bronze.offsets import query_ids
from cryptolake_assets.bronze.stream import run_available_now
from cryptolake_assets.captures import tracked_symbols
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys, stream_minutes
from cryptolake_assets.defs.follower import tick
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.kafka.topics import ensure_topics, ensure_topics_async
from cryptolake_assets.lake.bootstrap import ensure_table
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.markets import USD_M, Family
from cryptolake_assets.producer.client_libraries import io_in_use, make_publisher
from cryptolake_assets.producer.connection import ConnectionOptions
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.extra_feed import ExtraFeed
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.stream_minutes import run_stream_minutes
from cryptolake_tests.support import toy
from cryptolake_tests.support.captures import depth_frame, force_order_frame, mark_price_frame
from cryptolake_tests.support.checks import passed, verdicts
from cryptolake_tests.support.fakes import FakeClock, FakeExchange, until

MARK_PRICE, FORCE_ORDER = MINUTE_STREAMS
HOUR = datetime(2024, 7, 19, 5, tzinfo=UTC)
HOUR_MS = int(HOUR.timestamp()) * 1000
GARBAGE = b'{"symbol": "BTCUSDT", "mark_price": "12x"}'
CHECKS_OF_MARK_PRICES = {
    *("schema", "unique_key", "no_nulls", "prices_positive", "mark_ohlc_order", "rate_range"),
    *("updates_at_least_one", "events_accounted", "minutes_without_row"),
}
FAST = ConnectionOptions(backoff_first_s=0.01, backoff_cap_s=0.02, close_timeout_s=0.2)


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The platform's settings with both extra streams enabled and their topics created."""
    monkeypatch.setenv("CRYPTOLAKE_EXTRA_STREAMS", "markPrice,forceOrder")
    changed = settings.model_copy(update={"extra_streams": ("markPrice", "forceOrder")})
    ensure_topics(changed)
    return changed


def event(of: MinuteStream, frame: str) -> bytes:
    return msgspec.json.encode(of.parser(USD_M)(frame.encode(), HOUR_MS * 1000))


def send(settings: Settings, *records: tuple[str, bytes]) -> None:
    async def sending() -> None:
        async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:
            for topic, value in records:
                await producer.send_and_wait(topic, value)

    asyncio.run(sending())


def rows(settings: Settings, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_sql(settings, query).to_pylist()
    return found


def marks(settings: Settings, hour: datetime = HOUR) -> list[dict[str, Any]]:
    until_hour = hour + timedelta(hours=1)
    return rows(
        settings,
        f"SELECT * FROM cryptolake.silver.futures_mark_price_1m WHERE window_start >= '{hour.isoformat()}' "
        f"AND window_start < '{until_hour.isoformat()}' ORDER BY symbol, window_start",
    )


def materialize(instance: dg.DagsterInstance, of: MinuteStream, hour: datetime) -> dg.ExecuteInProcessResult:
    job = build_definitions().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=[asset_keys.of_table(of.silver)],
        partition_key=hour_key(hour),
        raise_on_error=False,
    )


def test_every_event_is_stored_once_and_invalid_records_are_rejected(settings: Settings, tmp_path: Path) -> None:
    topic = MARK_PRICE.topic(settings)
    valid = [
        event(MARK_PRICE, mark_price_frame("BTCUSDT", HOUR_MS + at, f"64000.{at:08}", rate="-0.00000001"))
        for at in range(0, 3_000, 1_000)
    ]
    without_rate = event(MARK_PRICE, mark_price_frame("BTCUSDT_240927", HOUR_MS, rate=""))
    order = event(FORCE_ORDER, force_order_frame("BTCUSDT", HOUR_MS, qty="0.014", price="9910"))
    send(settings, *((topic, value) for value in (*valid, without_rate, GARBAGE)), (FORCE_ORDER.topic(settings), order))
    run_available_now(settings)
    run_available_now(settings)
    stored = rows(
        settings,
        f"SELECT * FROM cryptolake.bronze.futures_mark_prices WHERE event_time >= '{HOUR.isoformat()}' "
        f"AND event_time < '{(HOUR + timedelta(minutes=1)).isoformat()}' ORDER BY symbol, event_time",
    )
    assert [row["mark_price"] for row in stored if row["symbol"] == "BTCUSDT"] == [
        Decimal(f"64000.{at:08}") for at in range(0, 3_000, 1_000)
    ]
    assert {row["funding_rate"] for row in stored} == {Decimal("-0.00000001"), None}
    assert stored[0]["next_funding_time"] == HOUR + timedelta(hours=1)
    assert stored[0]["kafka_offset"] is not None
    (liquidation,) = rows(settings, "SELECT * FROM cryptolake.bronze.futures_liquidations WHERE filled_qty = 0.014")
    assert (liquidation["side"], liquidation["average_price"], liquidation["status"]) == ("sell", 9910, "FILLED")
    (rejected,) = [
        row
        for row in rows(settings, "SELECT * FROM cryptolake.bronze.futures_trades_rejected")
        if row["raw"] == GARBAGE
    ]
    assert rejected["kafka_topic"] == topic
    assert rejected["reason"].startswith("not_contract")
    assert len(query_ids(settings)) == 6  # maintenance keeps the snapshots since each query's last commit


def test_hour_is_materialized_and_a_failed_candidate_is_not_published(settings: Settings, tmp_path: Path) -> None:
    hour = HOUR + timedelta(hours=1)
    topic, hour_ms = MARK_PRICE.topic(settings), HOUR_MS + 3_600_000
    frames = [mark_price_frame("ETHUSDT", hour_ms + at, str(3_000 + at)) for at in (0, 1_000, 60_000)]
    send(settings, *((topic, event(MARK_PRICE, frame)) for frame in (*frames, frames[0])))
    run_available_now(settings)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        done = materialize(instance, MARK_PRICE, hour)
        assert done.success
        assert verdicts(done) == passed(futures_mark_price_1m=CHECKS_OF_MARK_PRICES)
        first, second = marks(settings, hour)
        assert (first["open"], first["close"], first["updates"]) == (3_000, 4_000, 2)
        assert (second["open"], second["index_close"]) == (63_000, Decimal("99.5"))
        (materialization,) = done.asset_materializations_for_node("silver__futures_mark_price_1m")
        assert (materialization.metadata["events"].value, materialization.metadata["duplicates"].value) == (3, 1)
        send(settings, (topic, event(MARK_PRICE, mark_price_frame("ETHUSDT", hour_ms + 2_000, "0"))))
        run_available_now(settings)
        failed = materialize(instance, MARK_PRICE, hour)
        assert not failed.success
        (check,) = [it for it in failed.get_asset_check_evaluations() if not it.passed]
        assert check.check_name == "prices_positive"
        assert marks(settings, hour) == [first, second]


def test_sensor_requests_changed_hours_until_their_runs_succeed(settings: Settings, tmp_path: Path) -> None:
    hour = HOUR + timedelta(hours=3)
    send(
        settings,
        (FORCE_ORDER.topic(settings), event(FORCE_ORDER, force_order_frame("BTCUSDT", HOUR_MS + 3 * 3_600_000, "BUY"))),
    )
    run_available_now(settings)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def evaluate(cursor: str | None, now: float) -> tuple[list[dg.RunRequest], list[Any], str]:
            with dg.build_sensor_context(
                instance, cursor=cursor, repository_def=build_definitions().get_repository_def()
            ) as context:
                found = tick(context, Graph.of(settings), stream_minutes.followed(FORCE_ORDER), now)
                if isinstance(found, dg.SkipReason):
                    return [], [], str(context.cursor)
                return list(found.run_requests or ()), list(found.asset_events), str(found.cursor)

        requested, events, cursor = evaluate(None, 0.0)
        assert hour_key(hour) in [request.partition_key for request in requested]
        assert hour_key(hour) in [materialization.partition for materialization in events]
        request = next(request for request in requested if request.partition_key == hour_key(hour))
        job = build_definitions().resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            instance=instance,
            asset_selection=list(request.asset_selection or ()),
            partition_key=request.partition_key,
            tags=dict(request.tags),
        )
        assert done.success
        for now in (1_000.0, 2_000.0, 3_000.0):
            requested, _, cursor = evaluate(cursor, now)
            assert hour_key(hour) not in [request.partition_key for request in requested]
    (row,) = rows(
        settings,
        "SELECT * FROM cryptolake.silver.futures_liquidations_1m "
        f"WHERE window_start = '{hour.isoformat()}' AND symbol = 'BTCUSDT'",
    )
    assert (row["side"], row["orders"], row["qty"], row["notional"]) == ("buy", 1, 1, 100)


async def test_a_stream_of_another_exchange_is_one_adapter_and_one_contract(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked_symbols, "EXTRA_STREAM_TYPES", (*EXTRA_STREAM_TYPES, toy.STREAM))
    exchange = FakeExchange()
    async with exchange.running():
        own = settings.model_copy(
            update={"extra_streams": (toy.STREAM.name,), "exchange_ws_url": exchange.url, "symbols": ("BTC-EUR",)}
        )
        await ensure_topics_async(own)
        for spec in (toy.STREAM.bronze, toy.STREAM.silver):
            await asyncio.to_thread(ensure_table, own, spec)
        publisher = make_publisher(own, io_in_use(own))
        delivery = ReliableDelivery(publisher)
        await delivery.start()
        feed = ExtraFeed(own, lambda: own.symbols, put=delivery.put, clock=FakeClock(), options=FAST)
        running = asyncio.create_task(feed.run())
        await exchange.send(
            *(json.dumps({"pair": "BTC-EUR", "at": HOUR_MS + at, "bid": f"1.{at}"}) for at in (1, 2, 60_000))
        )
        await exchange.send('{"pair": "BTC-EUR", "at": 1}')
        await until(lambda: sum(delivery.acked.values()) == 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await publisher.stop()
    assert exchange.paths == ["/feed/BTC-EUR"]
    await asyncio.to_thread(run_available_now, own)
    candidate, _ = await asyncio.to_thread(run_stream_minutes, own, toy.STREAM, HOUR, "toy")
    assert candidate.passed
    found = await asyncio.to_thread(load_table, own, toy.STREAM.silver)
    minutes = found.scan().to_arrow().sort_by("window_start").to_pylist()
    assert [(row["close"], row["bids"]) for row in minutes] == [(Decimal("1.2"), 2), (Decimal("1.60000"), 1)]
    rejected = await asyncio.to_thread(rows, own, "SELECT * FROM cryptolake.bronze.futures_trades_rejected")
    assert [row["reason"] for row in rejected if row["stream"] == toy.STREAM.name] == [
        "wrong_shape: Object missing required field `bid`"
    ]


def test_levels_of_order_books_are_stored_exactly_and_malformed_ones_are_rejected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPTOLAKE_EXTRA_STREAMS", "depth")
    changed = settings.model_copy(update={"extra_streams": ("depth",)})
    ensure_topics(changed)
    (depth, _), snapshots = STREAMS, SNAPSHOTS_OF_FAMILY[Family.FUTURES]
    frame = json.loads(depth_frame("BTCUSDT", 100, 109, HOUR_MS, 99))
    frame["data"]["b"] = [["0.00000001", "12345678901234567890.12345678"], ["64000.5", "0"]]
    update = msgspec.json.encode(depth.parser(USD_M)(json.dumps(frame).encode(), HOUR_MS * 1000))
    snapshot = parse_snapshot(
        b'{"lastUpdateId":104,"bids":[["1","2"]],"asks":[]}', "BTCUSDT", USD_M.exchange, HOUR_MS * 1000
    )
    malformed = [update.replace(b'"0"]]', text) for text in (b'"-1"]]', b'"NaN"]]', b'"0","1"]]', b"null]]")]
    send(
        changed,
        *((depth.topic(changed), value) for value in (update, *malformed)),
        (snapshots.topic(changed), msgspec.json.encode(snapshot)),
    )
    run_available_now(changed)
    (stored,) = load_table(changed, depth.bronze).scan().to_arrow().to_pylist()
    assert stored["bids"] == [
        {"price": Decimal("0.00000001"), "qty": Decimal("12345678901234567890.12345678")},
        {"price": Decimal("64000.5"), "qty": Decimal(0)},
    ]
    assert (stored["first_update_id"], stored["final_update_id"], stored["previous_update_id"]) == (100, 109, 99)
    (of_rest,) = load_table(changed, snapshots.bronze).scan().to_arrow().to_pylist()
    assert (of_rest["last_update_id"], of_rest["bids"], of_rest["asks"]) == (104, [{"price": 1, "qty": 2}], [])
    assert of_rest["event_time"] is None
    rejected = rows(changed, "SELECT raw FROM cryptolake.bronze.futures_trades_rejected")
    assert {bytes(row["raw"]) for row in rejected} >= set(malformed)
