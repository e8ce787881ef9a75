"""Check results of the API with a real Dagster: real runs and evaluations, and a webserver on a socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.api import check_results, operation_routes
from cryptolake_assets.api.check_results import PARTITIONS, Execution, Result, older_partitions, state_of
from cryptolake_assets.platform import graphql
from cryptolake_assets.quality.bar_checks import BARS_AGREEING, BARS_COMPARED, OFFICIAL_KLINES
from cryptolake_assets.settings import load_settings
from cryptolake_tests.support import checked_assets
from cryptolake_tests.support.api import Api, serving
from cryptolake_tests.support.checked_assets import BARS, BLOCKING, CLOCK, HEARTBEAT, NEVER, report, run
from cryptolake_tests.support.dagster_pages import webserver

HOUR, NEXT_HOUR = "2024-07-18-23:00", "2024-07-19-00:00"
FEW = 3
"""Evaluations read per check in tests that make more of them."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Return a Dagster instance with all events in one file: a file per run is slower."""
    one_file = {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"}
    overrides = {"event_log_storage": {**one_file, "config": {"base_dir": str(tmp_path / "events")}}}
    with dg.instance_for_test(overrides=overrides) as made:
        yield made


@pytest.fixture
def api(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Serve an API that queries Dagster for every request."""
    monkeypatch.setattr(operation_routes, "CHECKS_CACHE_S", -1.0)
    with (
        webserver(instance, Path(checked_assets.__file__), "DEFINITIONS") as port,
        serving(load_settings(home=tmp_path / "home", dagster_port=port)) as made,
    ):
        yield made


def check(api: Api, name: str, asset: dg.AssetKey = BARS) -> dict[str, Any]:
    response = api.get("/quality/checks")
    assert response.status_code == 200, response.text
    (found,) = (
        row for row in response.json()["checks"] if (row["asset"], row["check"]) == ("/".join(asset.path), name)
    )
    return dict(found)


def counted(row: dict[str, Any]) -> dict[str, int]:
    """Return the number of partitions per result, without zeros."""
    return {name: number for name, number in row["partitions"].items() if isinstance(number, int) and number}


def test_check_without_attempts_is_never_run(api: Api) -> None:
    row = check(api, BLOCKING)
    assert (row["result"], row["running"], row["blocking"]) == ("never_run", False, True)
    fields = ("status", "severity", "checked_at", "partition", "description", "run_id", "run_url", "partitions")
    assert {row[name] for name in fields} == {None}
    assert row["counts"] == {}


def test_passed_hour_does_not_hide_a_failed_one(api: Api, instance: dg.DagsterInstance) -> None:
    failed = run(instance, HOUR, passes=False, agreeing=5)
    run(instance, NEXT_HOUR)
    row = check(api, BLOCKING)
    assert (row["result"], row["status"], row["severity"], row["partition"]) == ("failed", "FAILED", "ERROR", HOUR)
    assert counted(row) == {"evaluated": 2, "passed": 1, "failed": 1}
    assert (row["partitions"]["unit"], row["partitions"]["first"], row["partitions"]["last"]) == (
        "hour",
        HOUR,
        NEXT_HOUR,
    )
    assert (row["run_id"], row["run_url"].rpartition("/runs/")[2]) == (failed.run_id, failed.run_id)
    official = check(api, OFFICIAL_KLINES)
    assert (official["result"], official["partition"]) == ("warned", HOUR)
    assert official["description"] == "5 of 7 complete bars equal the official klines"
    assert {name: official["counts"][name] for name in (BARS_COMPARED, BARS_AGREEING)} == {
        BARS_COMPARED: 14,
        BARS_AGREEING: 12,
    }
    run(instance, HOUR)
    row, official = check(api, BLOCKING), check(api, OFFICIAL_KLINES)
    assert (row["result"], counted(row)) == ("passed", {"evaluated": 2, "passed": 2})
    assert (official["counts"][BARS_COMPARED], official["counts"][BARS_AGREEING]) == (14, 14)


def test_running_check_keeps_its_last_finished_result(api: Api, instance: dg.DagsterInstance) -> None:
    first = run(instance, HOUR)
    for passes, result in ((True, "passed"), (False, "failed")):
        before = check(api, BLOCKING)
        assert (before["result"], before["running"]) == ("passed", False)
        hold = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run, instance, HOUR, passes=passes, waits_for=hold)
            try:
                assert checked_assets.plan.reached.wait(60)
                row = check(api, BLOCKING)
            finally:
                hold.set()
            running.result()
        assert (row["result"], row["running"], row["last_attempt"]) == ("passed", True, "IN_PROGRESS")
        assert (row["partitions"]["running"], counted(row)["passed"]) == (1, 1)
        assert {name: row[name] for name in ("checked_at", "run_id")} == {
            name: before[name] for name in ("checked_at", "run_id")
        }
        after = check(api, BLOCKING)
        assert (after["result"], after["running"], after["run_id"] == first.run_id) == (result, False, False)


def test_first_run_in_progress_is_never_run(api: Api, instance: dg.DagsterInstance) -> None:
    hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, instance, HOUR, waits_for=hold)
        try:
            assert checked_assets.plan.reached.wait(60)
            row = check(api, BLOCKING)
        finally:
            hold.set()
        running.result()
    assert (row["result"], row["running"], row["status"], row["run_id"]) == ("never_run", True, None, None)
    assert counted(row) == {"running": 1}


def test_skipped_check_is_neither_failed_nor_passed(api: Api, instance: dg.DagsterInstance) -> None:
    assert run(instance, HOUR, skips=True).success
    row = check(api, BLOCKING)
    assert (row["result"], row["running"], row["status"], row["checked_at"]) == ("skipped", False, None, None)
    assert counted(row) == {"skipped": 1}
    run(instance, NEXT_HOUR)
    assert (check(api, BLOCKING)["result"], counted(check(api, BLOCKING))) == (
        "passed",
        {"evaluated": 1, "passed": 1, "skipped": 1},
    )


def test_run_that_fails_before_its_checks_is_errored(api: Api, instance: dg.DagsterInstance) -> None:
    crashed = run(instance, HOUR, crashes=True)
    row = check(api, BLOCKING)
    assert (row["result"], row["status"], row["checked_at"], row["run_id"]) == ("errored", None, None, crashed.run_id)
    run(instance, HOUR)
    run(instance, HOUR, crashes=True)
    row = check(api, BLOCKING)
    assert (row["result"], row["last_attempt"]) == ("passed", "EXECUTION_FAILED")


def test_checked_at_is_the_time_of_the_evaluation(api: Api, instance: dg.DagsterInstance) -> None:
    hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, instance, HOUR, waits_for=hold)
        assert checked_assets.plan.reached.wait(60)
        released = datetime.now(UTC)
        hold.set()
        running.result()
    ended = datetime.now(UTC)
    evaluated = datetime.fromisoformat(check(api, BLOCKING)["checked_at"])
    assert released.replace(microsecond=0) <= evaluated <= ended
    assert evaluated.microsecond % 1000 == 0
    assert check(api, BLOCKING)["checked_at"] == check(api, BLOCKING)["checked_at"], "not the time of the request"


def test_evaluation_without_run_and_partitions_is_returned(api: Api, instance: dg.DagsterInstance) -> None:
    report(instance, CLOCK, HEARTBEAT, None, passed=False, severity=dg.AssetCheckSeverity.WARN)
    row = check(api, HEARTBEAT, CLOCK)
    assert (row["result"], row["partitions"], row["run_id"], row["run_url"]) == ("warned", None, None, None)
    report(instance, CLOCK, HEARTBEAT, None)
    assert check(api, HEARTBEAT, CLOCK)["result"] == "passed"
    assert check(api, NEVER, CLOCK)["result"] == "never_run"


def test_many_evaluations_of_the_open_hour_do_not_hide_a_failed_hour(
    api: Api, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_results, "EVALUATIONS", FEW)
    report(instance, BARS, BLOCKING, "2024-07-17-23:00", passed=False)
    report(instance, BARS, BLOCKING, "2024-07-18-02:00", passed=False)
    for _ in range(FEW):
        report(instance, BARS, BLOCKING, NEXT_HOUR)
    row = check(api, BLOCKING)
    assert (row["result"], row["partition"]) == ("failed", "2024-07-18-02:00")
    assert counted(row) == {"evaluated": 2, "passed": 1, "failed": 1}, "hours more than a day ago are not read"
    report(instance, BARS, BLOCKING, "2024-07-18-02:00")
    assert check(api, BLOCKING)["result"] == "passed"
    assert api.get("/quality/checks").json()["looked_at"] == {"evaluations": FEW, "partitions": PARTITIONS}


def test_history_is_read_in_two_requests(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_results, "EVALUATIONS", FEW)
    for _ in range(FEW):
        report(instance, BARS, BLOCKING, HOUR)
        report(instance, BARS, OFFICIAL_KLINES, HOUR)
    queries: list[str] = []
    with webserver(instance, Path(checked_assets.__file__), "DEFINITIONS") as port:
        settings = load_settings(home=tmp_path, dagster_port=port)

        def ask(query: str) -> dict[str, Any]:
            queries.append(query)
            return graphql.ask(settings, query)

        history = check_results.CheckHistory(ask)
        keys = [(tuple(BARS.path), name) for name in (BLOCKING, OFFICIAL_KLINES)]
        for requests in (2, 3):  # results of older partitions are cached
            assert [state.result for state in history.states(keys)] == [Result.PASSED] * 2
            assert len(queries) == requests


def test_old_hour_that_runs_again_keeps_its_result_despite_newer_evaluations(
    api: Api, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_results, "EVALUATIONS", FEW)
    report(instance, BARS, BLOCKING, "2024-07-02-00:00", passed=False)
    for _ in range(FEW):
        report(instance, BARS, BLOCKING, NEXT_HOUR)
    assert check(api, BLOCKING)["result"] == "passed", "the old hour is not read any more"
    hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, instance, "2024-07-02-00:00", waits_for=hold)
        try:
            assert checked_assets.plan.reached.wait(60)
            row = check(api, BLOCKING)
        finally:
            hold.set()
        running.result()
    assert (row["result"], row["running"], row["partition"]) == ("failed", True, "2024-07-02-00:00")
    assert counted(row) == {"evaluated": 2, "passed": 1, "failed": 1, "running": 1}


def execution(number: int, status: str, partition: str | None, at: float | None = None, run_id: str = "r") -> Execution:
    return Execution(number, status, run_id, partition, at, None if at is None else "ERROR")


def test_evaluation_that_finished_last_decides() -> None:
    state = state_of([execution(1, "FAILED", HOUR, at=20.0), execution(2, "SUCCEEDED", HOUR, at=10.0)])
    assert (state.result, state.decided_by and state.decided_by.id) == (Result.FAILED, 1)


def test_announcement_of_a_multi_partition_run_is_not_a_partition() -> None:
    evaluated = [execution(2, "SUCCEEDED", HOUR, at=10.0), execution(3, "SUCCEEDED", NEXT_HOUR, at=11.0)]
    for status in ("SKIPPED", "EXECUTION_FAILED"):
        state = state_of([execution(1, status, None), *evaluated])
        assert state.result is Result.PASSED
        assert state.partitions == {
            **{"unit": "hour", "first": HOUR, "last": NEXT_HOUR, "evaluated": 2, "passed": 2},
            **dict.fromkeys(("failed", "errored", "warned", "skipped", "running"), 0),
        }
    state = state_of([execution(4, "IN_PROGRESS", None), *evaluated])
    assert (state.result, bool(state.running)) == (Result.PASSED, True)


def test_check_with_new_partitions_ignores_earlier_evaluations_without() -> None:
    before, since = execution(1, "FAILED", None, at=10.0), execution(2, "SUCCEEDED", HOUR, at=11.0)
    assert state_of([before, since]).result is Result.PASSED
    assert state_of([before]).result is Result.FAILED


@pytest.mark.parametrize(
    ("keys", "unit"),
    [((HOUR, NEXT_HOUR), "hour"), (("2024-02-28", "2024-03-01"), "day"), (("BTCUSDT", "币安人生USDT"), None)],
)
def test_partitions_of_any_kind_are_counted(keys: tuple[str, str], unit: str | None) -> None:
    found = state_of(execution(n, "SUCCEEDED", key, at=float(n)) for n, key in enumerate(keys)).partitions
    assert found is not None
    assert (found["unit"], found["first"], found["last"], found["evaluated"]) == (unit, *keys, 2)


@pytest.mark.parametrize(
    ("newest", "oldest", "among"),
    [("2024-03-01", "2024-02-07", "2024-02-29"), ("2024-03-01-02:00", "2024-02-29-03:00", "2024-02-29-23:00")],
)
def test_older_partitions_are_found_across_the_end_of_february(newest: str, oldest: str, among: str) -> None:
    evaluated = [execution(1, "SUCCEEDED", newest, at=1.0), execution(2, "IN_PROGRESS", None)]
    found = list(older_partitions(evaluated))
    assert (len(found), found[-1], among in found, newest in found) == (PARTITIONS - 1, oldest, True, False)
    assert among not in older_partitions([*evaluated, execution(3, "SUCCEEDED", among, at=2.0)])
    running = list(older_partitions([*evaluated, execution(3, "IN_PROGRESS", among)]))
    assert (sorted(running), running.count(among)) == (sorted(found), 1)


def test_partitions_without_an_order_have_no_older_ones() -> None:
    evaluated = [execution(1, "SUCCEEDED", "币安人生USDT", at=1.0), execution(2, "FAILED", None, at=2.0)]
    assert list(older_partitions(evaluated)) == []
    assert list(older_partitions([*evaluated, execution(3, "SKIPPED", "4USDT")])) == ["4USDT"]
