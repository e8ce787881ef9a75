"""Funding rates and open interest in the graph: the replay exchange over a real socket, real tables, faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.ingest.futures_rest import epoch_ms
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import IcebergCoverageSink
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.derivatives_tables import SILVER_FUNDING, SILVER_OPEN_INTEREST
from cryptolake_assets.model.replay_faults import SourceFault, SourceFaultKind
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.batch import Lake, check, run, stored_responses
from cryptolake_tests.support.captures import trade_frame, write_capture
from cryptolake_tests.support.checks import materialized, passed, verdicts
from cryptolake_tests.support.exchanges import ExchangeThread

DAY = datetime(2024, 7, 19, tzinfo=UTC)
FIRST_MS, SECOND_MS = epoch_ms(DAY - timedelta(hours=2)), epoch_ms(DAY + timedelta(minutes=7))
PARTITIONS = ("2024-07-18", "2024-07-19")
CHECKS_OF_FUNDING = {
    *("schema", "unique_key", "no_nulls", "funding_rate_range", "mark_price_positive"),
    *("funding_gaps", "symbols_behind", "rows_rejected"),
}
CHECKS_OF_OPEN_INTEREST = {
    *("schema", "unique_key", "no_nulls", "open_interest_not_negative", "value_of_history"),
    *("periods_missing", "symbols_behind", "rows_rejected"),
}


@pytest.fixture
def empty(lake: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lake]:
    monkeypatch.setattr("cryptolake_assets.http.source_client.RETRY_POLICY", RetryPolicy(4, 0.01, 90.0))
    for name, value in lake.environment().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield lake, instance


def rate(symbol: str, moment: datetime, number: int) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "fundingTime": epoch_ms(moment),
        "fundingRate": f"{Decimal(number).scaleb(-8):.8f}",
        "markPrice": "64000.12345678",
    }


def statistic(symbol: str, moment: datetime) -> dict[str, Any]:
    amount = f"{moment.hour}.{moment.minute:03}"
    return {"symbol": symbol, "sumOpenInterest": amount, "sumOpenInterestValue": "1.5", "timestamp": epoch_ms(moment)}


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Frames of two symbols around midnight, funding rates and open interest.

    1,100 rates of BTCUSDT (more than a page), one day of ETHUSDT, and three hours of five-minute statistics.
    """
    frames = [
        (moment * 10**6, trade_frame(symbol, moment, moment))
        for moment in (FIRST_MS, SECOND_MS)
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    directory = write_capture(tmp_path / "captured" / "frames.ndjson", frames)
    rates = [rate("BTCUSDT", DAY - number * timedelta(hours=8), number - 550) for number in range(1_100)]
    (directory / "funding_rate_BTCUSDT.json").write_text(json.dumps(rates))
    rates = [rate("ETHUSDT", DAY - number * timedelta(hours=8), 7) for number in range(4)]
    (directory / "funding_rate_ETHUSDT.json").write_text(json.dumps(rates))
    times = [DAY - timedelta(hours=3) + number * timedelta(minutes=5) for number in range(40)]
    both = [statistic(symbol, moment) for moment in times for symbol in ("BTCUSDT", "ETHUSDT")]
    (directory / "open_interest_history.json").write_text(json.dumps(both))
    monkeypatch.setenv("CRYPTOLAKE_REPLAY_DIR", str(directory))
    get_settings.cache_clear()
    return directory


def rows(lake: Lake, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_sql(lake[0], query).to_pylist()
    return found


def fundings(lake: Lake) -> list[dict[str, Any]]:
    return rows(lake, "SELECT * FROM cryptolake.silver.futures_funding_rates ORDER BY symbol, funding_time")


def test_first_run_loads_all_pages_of_funding_and_later_runs_only_new_rates(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExchangeThread(capture, FIRST_MS) as exchange:
        first = run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[0])
        assert first.success
        assert len(exchange.replay.batch.requests) == 3  # two pages of BTCUSDT, one of ETHUSDT
        stored = fundings(empty)
        assert [row["symbol"] for row in stored] == ["BTCUSDT"] * 1_099 + ["ETHUSDT"] * 3
        before = load_table(empty[0], SILVER_FUNDING).metadata.current_snapshot_id
        assert run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[0]).success
        assert load_table(empty[0], SILVER_FUNDING).metadata.current_snapshot_id == before
    with ExchangeThread(capture, SECOND_MS) as exchange:
        second = run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[1])
        assert second.success
        since = epoch_ms(DAY - timedelta(hours=8))
        assert f"startTime={since}" in exchange.replay.batch.requests[0]
        assert len(exchange.replay.batch.requests) == 2
    newest = fundings(empty)[1_099]
    assert (newest["funding_time"], newest["funding_rate"]) == (DAY, Decimal("-0.00000550"))
    assert newest["mark_price"] == Decimal("64000.12345678")
    assert verdicts(second) == passed(futures_funding_rates=CHECKS_OF_FUNDING)
    assert [row["refused"] for row in stored_responses(empty, "futures_funding_raw")] == [None] * 7


def test_funding_gap_warns_and_malformed_rates_are_reported(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = capture / "funding_rate_BTCUSDT.json"
    rates = [row for row in json.loads(path.read_text()) if row["fundingTime"] != epoch_ms(DAY - timedelta(days=9))]
    path.write_text(json.dumps(rates))
    with ExchangeThread(capture, FIRST_MS) as exchange:
        first = run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[0])
    assert first.success
    assert not check(first, "funding_gaps").passed
    assert check(first, "funding_gaps").severity is dg.AssetCheckSeverity.WARN
    good = fundings(empty)
    rates[0]["fundingRate"] = "1.00000000"  # a percentage, not a share
    path.write_text(json.dumps([*rates, None, {"symbol": "BTCUSDT", "fundingRate": "0.1"}]))
    with ExchangeThread(capture, SECOND_MS) as exchange:
        second = run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[1])
    assert second.success
    evaluation = check(second, "rows_rejected")
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "BTCUSDT: funding_rate 1.00000000" in str(evaluation.metadata)
    assert check(second, "funding_rate_range").passed
    new = [(row["symbol"], row["funding_time"]) for row in fundings(empty) if row not in good]
    assert new == [("ETHUSDT", DAY)], "the other symbol's rate is stored"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (SourceFaultKind.RATE_LIMIT, "status 429"),
        (SourceFaultKind.SERVER_ERROR, "status 502"),
        (SourceFaultKind.HTML, "not JSON"),
        (SourceFaultKind.OTHER_SHAPE, "response is"),
    ],
)
def test_rejected_response_is_stored_with_its_reason_and_silver_stays(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch, kind: SourceFaultKind, reason: str
) -> None:
    with ExchangeThread(capture, FIRST_MS) as exchange:
        assert run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[0]).success
    good = fundings(empty)
    with ExchangeThread(capture, SECOND_MS) as exchange:
        exchange.replay.control.switch_on(
            SourceFault("futures_funding", kind, times=10, seconds=3_600 if "limit" in kind else 0)
        )
        failed = run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[1])
    assert not failed.success
    assert materialized(failed) == set()
    assert fundings(empty) == good
    assert str(stored_responses(empty, "futures_funding_raw")[-1]["refused"]).startswith(reason)
    with ExchangeThread(capture, SECOND_MS) as exchange:
        exchange.replay.control.switch_on(
            SourceFault("futures_funding", SourceFaultKind.RATE_LIMIT, times=1, seconds=0)
        )
        repaired = run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[1])
    assert repaired.success
    assert materialized(repaired) == {"futures_funding_raw", "futures_funding_rates"}
    assert len(fundings(empty)) == len(good) + 2


def test_open_interest_is_requested_from_the_newest_stored_value_on(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_all = "SELECT * FROM cryptolake.silver.futures_open_interest ORDER BY symbol, source, observed_at"
    with ExchangeThread(capture, FIRST_MS) as exchange:
        first = run(empty, "futures_open_interest", exchange, monkeypatch, PARTITIONS[0])
        assert first.success
        assert len(exchange.replay.batch.requests) == 2 * 19  # a month in windows of 500, and the current value
    stored = rows(empty, of_all)
    assert [(row["symbol"], row["source"]) for row in stored] == [
        (symbol, source) for symbol in ("BTCUSDT", "ETHUSDT") for source in ("history",) * 13 + ("present",)
    ]
    assert stored[0]["observed_at"] == DAY - timedelta(hours=3)
    assert (stored[0]["open_interest"], stored[0]["open_interest_value"]) == (Decimal("21.000"), Decimal("1.5"))
    assert stored[13]["open_interest_value"] is None
    with ExchangeThread(capture, SECOND_MS) as exchange:
        second = run(empty, "futures_open_interest", exchange, monkeypatch, PARTITIONS[1])
        assert second.success
        assert len(exchange.replay.batch.requests) == 2 * 2
        assert f"startTime={epoch_ms(DAY - timedelta(hours=2))}" in exchange.replay.batch.requests[0]
    assert verdicts(second) == passed(futures_open_interest=CHECKS_OF_OPEN_INTEREST)
    history = [row for row in rows(empty, of_all) if row["symbol"] == "ETHUSDT" and row["source"] == "history"]
    assert [row["observed_at"] for row in history] == [
        DAY - timedelta(hours=3) + number * timedelta(minutes=5) for number in range(38)
    ]


@pytest.mark.parametrize("job", ["futures_funding", "futures_open_interest"])
def test_delisted_symbol_does_not_block_others(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    gone = CoverageRow("binance_futures", "GONEUSDT", "trade", FIRST_MS - 3_600_000, FIRST_MS, 0, 1, "ws://x")
    IcebergCoverageSink(empty[0]).write([gone])
    with ExchangeThread(capture, FIRST_MS) as exchange:
        assert run(empty, job, exchange, monkeypatch, PARTITIONS[0]).success
    reasons = {row["endpoint"].partition("/")[2]: row["refused"] for row in stored_responses(empty, f"{job}_raw")}
    # The exchange responds with an empty list of rates for a delisted symbol.
    of_gone = None if job == "futures_funding" else "the exchange does not list the symbol"
    assert reasons == {"BTCUSDT": None, "ETHUSDT": None, "GONEUSDT": of_gone}
    table = {"futures_funding": SILVER_FUNDING, "futures_open_interest": SILVER_OPEN_INTEREST}[job]
    assert set(load_table(empty[0], table).scan().to_arrow()["symbol"].to_pylist()) == {"BTCUSDT", "ETHUSDT"}


def test_malformed_response_for_one_symbol_does_not_block_others(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExchangeThread(capture, FIRST_MS) as exchange:
        exchange.replay.control.switch_on(SourceFault("futures_funding", SourceFaultKind.OTHER_SHAPE, times=1))
        done = run(empty, "futures_funding", exchange, monkeypatch, PARTITIONS[0])
    assert done.success
    assert [row["symbol"] for row in fundings(empty)] == ["ETHUSDT"] * 3
    assert not check(done, "symbols_behind").passed
    (event,) = done.asset_materializations_for_node("bronze__futures_funding_raw")
    assert "symbol=BTCUSDT" in str(event.metadata["skipped_responses"].value)
