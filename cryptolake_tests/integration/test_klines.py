"""Official klines over the replay exchange's REST, compared with Silver bars of real trades."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import IcebergCoverageSink
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.quality.bar_checks import OFFICIAL_KLINES
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, get_settings
from cryptolake_tests.support.bronze import append
from cryptolake_tests.support.served import ServedExchange

HOUR = datetime(2024, 7, 19, tzinfo=UTC)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
LAST_MS = 1721347502000
DIFFERENCES = "SELECT symbol, window_start, field, ours, official FROM cryptolake.silver.futures_kline_differences"


def bronze_rows() -> list[dict[str, Any]]:
    """Return the shipped capture's trades as Bronze rows of the stream."""
    rows = []
    for offset, frame in enumerate(read_frames(DEMO_CAPTURE_DIR)):
        parsed = parse_frame(frame.raw, ingest_time_us=frame.receive_time_ns // 1000, exchange=USD_M.exchange)
        assert isinstance(parsed, AcceptedFrame)
        event = parsed.event
        moment = datetime.fromtimestamp(event.event_time / 1_000_000, UTC)
        rows.append(
            {
                "symbol": event.symbol,
                "event_time": moment,
                "price": Decimal(event.price),
                "qty": Decimal(event.qty),
                **{name: getattr(event, name) for name in ("side", "trade_id", "exchange", "trade_type", "stream")},
                **{name: getattr(event, name) for name in ("first_trade_id", "last_trade_id")},
                "ingest_ts": moment,
                "kafka_partition": 0,
                "kafka_offset": offset,
                "kafka_timestamp": moment,
            }
        )
    return rows


@pytest.fixture
def captured(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Settings, dg.DagsterInstance]]:
    """A lake with the capture's trades and their coverage; Bronze is up to date with Kafka."""
    monkeypatch.setattr("cryptolake_assets.transform.load_inputs.committed_offsets", lambda *_: {0: 10**9})
    append(lake, bronze_rows())
    first_ms = 1721347022000
    IcebergCoverageSink(lake).write(
        [CoverageRow(USD_M.exchange, name, "trade", first_ms, LAST_MS, 0, 10**9, "ws://replay") for name in SYMBOLS]
    )
    for name, value in lake.environment().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.ephemeral() as instance:
        yield lake, instance


def materialize(instance: dg.DagsterInstance, key: dg.AssetKey, url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CRYPTOLAKE_EXCHANGE_REST_URL", url)
    get_settings.cache_clear()
    job = build_definitions().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=[key], partition_key=hour_key(HOUR))


def last_evaluation(instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    """Return the latest evaluation of the check on Silver."""
    (record, *_) = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(asset_keys.FUTURES.bars, OFFICIAL_KLINES), limit=1
    )
    assert record.event is not None
    evaluation = record.event.asset_check_evaluation
    assert evaluation is not None
    return evaluation


def test_bars_equal_official_klines_and_a_difference_is_flagged_until_resolved(
    captured: tuple[Settings, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, instance = captured
    with ServedExchange(DEMO_CAPTURE_DIR, LAST_MS) as url:
        materialize(instance, asset_keys.FUTURES.bars, url, monkeypatch)
        assert str(last_evaluation(instance).description).startswith("no reference: ")
        assert not last_evaluation(instance).passed
        result = materialize(instance, asset_keys.FUTURES.klines, url, monkeypatch)
        assert last_evaluation(instance).passed
        assert str(last_evaluation(instance).description).startswith("10 of 10 ")
        assert last_evaluation(instance).partition == hour_key(HOUR)
        (event,) = result.asset_materializations_for_node(asset_keys.FUTURES.klines.to_python_identifier())
        assert event.partition == hour_key(HOUR)
        assert run_sql(settings, DIFFERENCES).num_rows == 0
        # A second time nothing is new, and nothing is written.
        snapshot = load_table(settings, FUTURES.klines).metadata.current_snapshot_id
        materialize(instance, asset_keys.FUTURES.klines, url, monkeypatch)
        assert load_table(settings, FUTURES.klines).metadata.current_snapshot_id == snapshot

    drifted = tmp_path / "drifted"
    shutil.copytree(DEMO_CAPTURE_DIR, drifted)
    path = next(drifted.glob("ETHUSDT-1m-*.csv"))
    lines = path.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("1721347320000"))
    values = lines[at].split(",")
    official = Decimal(values[5]) + Decimal("0.001")
    lines[at] = ",".join([*values[:5], str(official), *values[6:]])
    path.write_text("\n".join(lines) + "\n")
    with ServedExchange(drifted, LAST_MS) as url:
        materialize(instance, asset_keys.FUTURES.klines, url, monkeypatch)
    assert not last_evaluation(instance).passed
    assert str(last_evaluation(instance).description).startswith("9 of 10 ")
    (row,) = run_sql(settings, DIFFERENCES).to_pylist()
    assert (row["symbol"], row["window_start"], row["field"]) == ("ETHUSDT", HOUR.replace(minute=2), "volume")
    assert row["official"] - row["ours"] == Decimal("0.001")
    with ServedExchange(DEMO_CAPTURE_DIR, LAST_MS) as url:
        materialize(instance, asset_keys.FUTURES.klines, url, monkeypatch)
    assert last_evaluation(instance).passed
    assert run_sql(settings, DIFFERENCES).num_rows == 0


def test_check_fails_without_official_klines(
    captured: tuple[Settings, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, instance = captured
    bare = tmp_path / "bare"
    shutil.copytree(DEMO_CAPTURE_DIR, bare, ignore=shutil.ignore_patterns("*.csv"))
    with ServedExchange(bare, LAST_MS) as url:
        materialize(instance, asset_keys.FUTURES.bars, url, monkeypatch)
        materialize(instance, asset_keys.FUTURES.klines, url, monkeypatch)
    assert not last_evaluation(instance).passed
    assert last_evaluation(instance).description is not None
    assert "no reference" in (last_evaluation(instance).description or "")
    assert load_table(settings, FUTURES.klines).scan().to_arrow().num_rows == 0


def test_delisted_symbol_does_not_block_klines_of_others(
    captured: tuple[Settings, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, instance = captured
    delisted = CoverageRow(USD_M.exchange, "GONEUSDT", "trade", 1721347022000, LAST_MS, 0, 10**9, "ws://replay")
    IcebergCoverageSink(settings).write([delisted])
    with ServedExchange(DEMO_CAPTURE_DIR, LAST_MS) as url:
        materialize(instance, asset_keys.FUTURES.bars, url, monkeypatch)
        result = materialize(instance, asset_keys.FUTURES.klines, url, monkeypatch)
    assert result.success
    (made,) = result.asset_materializations_for_node(asset_keys.FUTURES.klines.to_python_identifier())
    assert made.metadata["not_listed"].value == "GONEUSDT"
    stored = load_table(settings, FUTURES.klines).scan().to_arrow()["symbol"].to_pylist()
    assert set(stored) == set(SYMBOLS)
