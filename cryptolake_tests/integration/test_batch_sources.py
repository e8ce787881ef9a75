"""Batch sources in the graph: the replay exchange over a real socket, real tables, and every source fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from cryptolake_assets.captures.recorded_names import FEAR_GREED_FILE
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.http.http_client import RetryPolicy
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.replay_faults import SourceFault, SourceFaultKind
from cryptolake_assets.model.source_tables import SILVER_FEAR_GREED
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings
from cryptolake_tests.support.batch import Lake, check, run, stored_responses
from cryptolake_tests.support.captures import trade_frame, write_capture
from cryptolake_tests.support.checks import materialized, passed, verdicts
from cryptolake_tests.support.exchanges import ExchangeThread

RECORDED = Path(__file__).parents[1] / "ingest" / "recorded"
FIRST_MS, SECOND_MS = 1_721_260_900_000, 1_721_347_502_000  # in 2024-07-18 and in 2024-07-19
JUNE_MS = 1_780_315_200_000  # 2026-06-01T12:00:00Z
CHECKS_OF_THE_INDEX = {
    *("schema", "unique_key", "no_nulls", "index_range", "days_missing", "newest_row", "rows_rejected"),
}
CHECKS_OF_COINS = {"schema", "unique_key", "key_present", "not_negative", "rows_rejected"}
CHECKS_OF_THE_MARKET = {"schema", "unique_key", "no_nulls", "not_negative", "dominance_range", "rows_rejected"}


@pytest.fixture
def empty(lake: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lake]:
    monkeypatch.setattr("cryptolake_assets.http.source_client.RETRY_POLICY", RetryPolicy(4, 0.01, 90.0))
    for name, value in lake.environment().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield lake, instance


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """The index from 2024-07-10 to 07-19, and frames on both days, so that the clock can be set to either."""
    frames = [(moment * 10**6, trade_frame("BTCUSDT", moment, moment)) for moment in (FIRST_MS, SECOND_MS)]
    directory = write_capture(tmp_path / "captured" / "frames.ndjson", frames)
    days = json.loads((DEMO_CAPTURE_DIR / FEAR_GREED_FILE).read_text())
    (directory / FEAR_GREED_FILE).write_text(json.dumps([day for day in days if int(day["timestamp"]) >= 1720569600]))
    return directory


def index(lake: Lake) -> dict[date, int]:
    rows = run_sql(lake[0], "SELECT index_date, value FROM cryptolake.silver.fear_greed_daily").to_pylist()
    assert len({row["index_date"] for row in rows}) == len(rows)
    return {row["index_date"]: row["value"] for row in rows}


def snapshot(lake: Lake) -> int | None:
    return load_table(lake[0], SILVER_FEAR_GREED).metadata.current_snapshot_id


def test_first_run_loads_the_full_history_and_later_runs_only_new_days(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExchangeThread(capture, FIRST_MS) as exchange:
        first = run(empty, "fear_greed", exchange, monkeypatch, "2024-07-18")
        assert first.success
        assert exchange.replay.batch.requests == ["/fng/?limit=0"]
        assert sorted(index(empty)) == [date(2024, 7, day) for day in range(10, 19)]
        before = snapshot(empty)
        assert run(empty, "fear_greed", exchange, monkeypatch, "2024-07-18").success
        assert exchange.replay.batch.requests[1:] == ["/fng/?limit=4"]
        assert snapshot(empty) == before
    with ExchangeThread(capture, SECOND_MS) as exchange:
        assert run(empty, "fear_greed", exchange, monkeypatch, "2024-07-19").success
        assert exchange.replay.batch.requests == ["/fng/?limit=5"]
    assert index(empty)[date(2024, 7, 19)] == 60
    assert len(index(empty)) == 10
    stored = stored_responses(empty)
    assert [row["refused"] for row in stored] == [None, None, None]
    assert json.loads(stored[0]["body"])["metadata"] == {"error": None}
    # The capture starts in 2024: six years of days are missing that are not known gaps.
    expected = passed(fear_greed_daily=CHECKS_OF_THE_INDEX)
    expected["fear_greed_daily"]["days_missing"] = False
    assert verdicts(first) == expected
    assert check(first, "days_missing").severity is dg.AssetCheckSeverity.WARN


def test_shipped_history_has_only_known_gaps_and_reports_other_days(
    empty: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExchangeThread(DEMO_CAPTURE_DIR, SECOND_MS) as exchange:
        result = run(empty, "fear_greed", exchange, monkeypatch, "2024-07-19")
    assert result.success
    assert len(index(empty)) == 2_358
    assert verdicts(result) == passed(fear_greed_daily=CHECKS_OF_THE_INDEX)
    events = result.asset_materializations_for_node("silver__fear_greed_daily")
    assert {event.partition for event in events} == {"2024-07-18", "2024-07-19"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (SourceFaultKind.RATE_LIMIT, "status 429"),
        (SourceFaultKind.SERVER_ERROR, "status 502"),
        (SourceFaultKind.HTML, "not JSON"),
        (SourceFaultKind.OTHER_SHAPE, "response has no metadata"),
    ],
)
def test_rejected_response_is_stored_with_its_reason_and_silver_stays(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch, kind: SourceFaultKind, reason: str
) -> None:
    with ExchangeThread(capture, FIRST_MS) as exchange:
        assert run(empty, "fear_greed", exchange, monkeypatch, "2024-07-18").success
    before, good = snapshot(empty), index(empty)
    with ExchangeThread(capture, SECOND_MS) as exchange:
        exchange.replay.control.switch_on(
            SourceFault("fear_greed", kind, times=10, seconds=3_600 if "limit" in kind else 0)
        )
        failed = run(empty, "fear_greed", exchange, monkeypatch, "2024-07-19")
    assert not failed.success
    assert materialized(failed) == set()
    assert (snapshot(empty), index(empty)) == (before, good)
    last = stored_responses(empty)[-1]
    assert last["refused"].startswith(reason)
    assert len(last["sha256"]) == 64
    assert last["body"]
    with ExchangeThread(capture, SECOND_MS) as exchange:
        exchange.replay.control.switch_on(SourceFault("fear_greed", SourceFaultKind.RATE_LIMIT, times=1, seconds=0))
        repaired = run(empty, "fear_greed", exchange, monkeypatch, "2024-07-19")
    assert repaired.success
    assert materialized(repaired) == {"fear_greed_raw", "fear_greed_daily"}
    assert index(empty)[date(2024, 7, 19)] == 60


def test_malformed_days_are_reported_and_do_not_block_others(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = json.loads((capture / FEAR_GREED_FILE).read_text())
    days[-3]["value"] = "101"
    days[-4]["timestamp"] = None
    (capture / FEAR_GREED_FILE).write_text(json.dumps([*days, None]))
    with ExchangeThread(capture, FIRST_MS) as exchange:
        done = run(empty, "fear_greed", exchange, monkeypatch, "2024-07-18")
    assert done.success
    assert sorted(index(empty)) == [date(2024, 7, day) for day in (10, 11, *range(14, 19))]
    evaluation = check(done, "rows_rejected")
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "value 101 is outside 0 to 100" in str(evaluation.metadata)


def test_corrected_day_is_upserted_and_an_old_partition_does_not_revert_it(
    empty: Lake, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExchangeThread(capture, FIRST_MS) as exchange:
        assert run(empty, "fear_greed", exchange, monkeypatch, "2024-07-18").success
    days = json.loads((capture / FEAR_GREED_FILE).read_text())
    corrected = next(day for day in days if day["timestamp"] == "1721260800")
    corrected["value"] = "1"
    (capture / FEAR_GREED_FILE).write_text(json.dumps(days))
    with ExchangeThread(capture, SECOND_MS) as exchange:
        assert run(empty, "fear_greed", exchange, monkeypatch, "2024-07-19").success
        assert index(empty)[date(2024, 7, 18)] == 1
        config = {"ops": {"bronze__fear_greed_raw": {"config": {"full_history": True}}}}
        assert run(empty, "fear_greed", exchange, monkeypatch, "2024-07-19", **config).success
        assert exchange.replay.batch.requests[-1] == "/fng/?limit=0"
    job = build_definitions().resolve_implicit_global_asset_job_def()
    rerun = job.execute_in_process(
        instance=empty[1],
        asset_selection=[asset_keys.of_table(SILVER_FEAR_GREED)],
        partition_key="2024-07-18",
        raise_on_error=False,
    )
    assert not rerun.success  # it reads the clock of the replay exchange, which is stopped
    assert index(empty)[date(2024, 7, 18)] == 1


@pytest.fixture
def june(tmp_path: Path) -> Path:
    """A capture of 2026-06-01 with CoinGecko's recorded responses."""
    frames = [(JUNE_MS * 10**6, trade_frame("BTCUSDT", 1, JUNE_MS))]
    directory = write_capture(tmp_path / "june" / "frames.ndjson", frames)
    for path in RECORDED.glob("*.json"):
        shutil.copy(path, directory)
    return directory


def test_coingecko_hour_is_stored_once_with_exact_values(
    empty: Lake, june: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPTOLAKE_COINGECKO_API_KEY", "demo-key")
    with ExchangeThread(june, JUNE_MS) as exchange:
        for _ in range(2):
            result = run(empty, "coingecko", exchange, monkeypatch, "2026-06-01")
            assert result.success
            assert verdicts(result) == passed(coingecko_markets=CHECKS_OF_COINS, coingecko_global=CHECKS_OF_THE_MARKET)
        page = "/api/v3/coins/markets?vs_currency=usd&order=market_cap_desc&per_page=250&page=1 key=demo-key"
        assert exchange.replay.batch.requests == [page, "/api/v3/global key=demo-key"] * 2
        earlier = run(empty, "coingecko", exchange, monkeypatch, "2026-05-30")
        assert earlier.success
        assert len(exchange.replay.batch.requests) == 4
    (coin,) = run_sql(empty[0], "SELECT * FROM cryptolake.silver.coingecko_markets").to_pylist()
    assert (coin["coin_id"], coin["price"]) == ("bitcoin", Decimal(77671))
    assert coin["snapshot_hour"] == datetime(2026, 6, 1, 12, tzinfo=UTC)
    (market,) = run_sql(empty[0], "SELECT * FROM cryptolake.silver.coingecko_global").to_pylist()
    assert market["btc_dominance"] == Decimal("57.9539332566265")
    stored = stored_responses(empty, "coingecko_raw")
    assert [row["endpoint"] for row in stored] == ["markets", "global"] * 2
    assert stored[0]["body"] == (june / "coingecko_markets_1.json").read_bytes()
    assert "demo-key" not in str(stored)


def test_rejected_page_leaves_both_tables_unchanged_until_the_next_run(
    empty: Lake, june: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExchangeThread(june, JUNE_MS) as exchange:
        exchange.replay.control.switch_on(SourceFault("coingecko", SourceFaultKind.HTML))
        assert not run(empty, "coingecko", exchange, monkeypatch, "2026-06-01").success
        assert [row["refused"] is None for row in stored_responses(empty, "coingecko_raw")] == [False, True]
        assert run_sql(empty[0], "SELECT * FROM cryptolake.silver.coingecko_global").num_rows == 0
        assert run(empty, "coingecko", exchange, monkeypatch, "2026-06-01").success
    assert run_sql(empty[0], "SELECT * FROM cryptolake.silver.coingecko_markets").num_rows == 1
    assert run_sql(empty[0], "SELECT * FROM cryptolake.silver.coingecko_global").num_rows == 1


def test_invalid_coin_is_reported_and_does_not_block_others(
    empty: Lake, june: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = june / "coingecko_markets_1.json"
    (coin,) = json.loads(page.read_text())
    changes: list[dict[str, object]] = [
        {"current_price": -1},
        {"last_updated": "2026-06-01T12:00:00"},
        {"last_updated": 1},
        {"symbol": ""},
    ]
    page.write_text(
        json.dumps([coin, *({**coin, "id": f"invalid-{n}"} | change for n, change in enumerate(changes)), None])
    )
    with ExchangeThread(june, JUNE_MS) as exchange:
        result = run(empty, "coingecko", exchange, monkeypatch, "2026-06-01")
    assert result.success
    expected = passed(coingecko_markets=CHECKS_OF_COINS, coingecko_global=CHECKS_OF_THE_MARKET)
    expected["coingecko_markets"]["rows_rejected"] = False
    assert verdicts(result) == expected
    (row,) = run_sql(empty[0], "SELECT coin_id FROM cryptolake.silver.coingecko_markets").to_pylist()
    assert row["coin_id"] == "bitcoin"
