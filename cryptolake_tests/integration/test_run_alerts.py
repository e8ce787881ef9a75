"""The alerting sensors on a real instance with failed and successful runs, evaluated as by the daemon."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.platform import notify as notify_module
from cryptolake_assets.platform.notify import Alert, AlertKind, Delivery
from cryptolake_assets.settings import Settings, get_settings

KEY = dg.AssetKey(["silver", "bars"])
HOURS = dg.StaticPartitionsDefinition(["h1", "h2"])
PLAN: dict[str, Any] = {}


@dg.asset(
    key=KEY,
    partitions_def=HOURS,
    output_required=False,
    check_specs=[
        dg.AssetCheckSpec("drop_ratio", asset=KEY, blocking=True),
        dg.AssetCheckSpec("late", asset=KEY),
    ],
)
def bars(context: dg.AssetExecutionContext) -> Iterator[Any]:
    outcome = PLAN.get(context.partition_key, "passes")
    if outcome == "raises":
        raise ValueError("the lake is\nfrozen over")
    passed = outcome == "passes"
    yield dg.AssetCheckResult(asset_key=KEY, check_name="drop_ratio", passed=passed)
    yield dg.AssetCheckResult(asset_key=KEY, check_name="late", passed=passed, severity=dg.AssetCheckSeverity.WARN)
    if not passed:
        raise dg.Failure(f"silver: {context.partition_key} rejected", allow_retries=False)
    yield dg.MaterializeResult(asset_key=KEY)


@dg.op
def failing_op() -> None:
    raise RuntimeError("no assets here")


@dg.job
def a_job() -> None:
    failing_op()


DEFINITIONS = dg.Definitions(assets=[bars], jobs=[a_job])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    PLAN.clear()
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}}) as one:
        yield one


@pytest.fixture
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[Alert]:
    """The alerts that were sent."""
    alerts: list[Alert] = []

    def store(settings: Settings, alert: Alert) -> list[Delivery]:
        alerts.append(alert)
        return []

    monkeypatch.setattr(notify_module, "notify", store)
    return alerts


def run(instance: dg.DagsterInstance, partition: str, outcome: str) -> dg.ExecuteInProcessResult:
    PLAN[partition] = outcome
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance, partition_key=partition, asset_selection=[KEY], raise_on_error=False
    )


class Daemon:
    """Evaluates both sensors with their cursors."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursors: dict[str, str | None] = {}
        self.repository = build_definitions().get_repository_def()

    def tick(self) -> None:
        for sensor in map(self.repository.get_sensor_def, ("run_failures", "run_recoveries")):
            context = dg.build_sensor_context(
                instance=self.instance, cursor=self.cursors.get(sensor.name), repository_def=self.repository
            )
            data = sensor.evaluate_tick(context)
            self.cursors[sensor.name] = data.cursor
            assert [reaction.error for reaction in data.dagster_run_reactions or ()] == [None] * len(
                data.dagster_run_reactions or ()
            )


def test_alert_of_a_failed_run_names_its_checks_and_cause(instance: dg.DagsterInstance, alerts: list[Alert]) -> None:
    daemon = Daemon(instance)
    daemon.tick()
    result = run(instance, "h1", "fails")
    daemon.tick()
    (alert,) = alerts
    assert alert.kind is AlertKind.FAILED
    assert (alert.assets, alert.partition) == (("silver/bars",), "h1")
    assert alert.failed_checks == ("silver/bars: drop_ratio",), "a check that warns does not fail the run"
    assert (alert.step, alert.cause) == ("silver__bars", "silver: h1 rejected")
    assert alert.run_url == f"http://127.0.0.1:{get_settings().dagster_port}/runs/{result.run_id}"
    record = instance.get_run_record_by_id(result.run_id)
    assert record is not None
    assert record.end_time is not None
    assert alert.at is not None
    assert alert.at.timestamp() == pytest.approx(record.end_time)


def test_cause_of_an_exception_is_its_first_line(instance: dg.DagsterInstance, alerts: list[Alert]) -> None:
    daemon = Daemon(instance)
    daemon.tick()
    run(instance, "h1", "raises")
    a_job.execute_in_process(instance=instance, raise_on_error=False)
    daemon.tick()
    assert [alert.cause for alert in alerts] == ["ValueError: the lake is", "RuntimeError: no assets here"]
    assert (alerts[1].job, alerts[1].assets, alerts[1].partition, alerts[1].subject) == ("a_job", (), None, "a_job")


def test_repeated_failure_alerts_once_and_once_on_recovery(instance: dg.DagsterInstance, alerts: list[Alert]) -> None:
    daemon = Daemon(instance)
    daemon.tick()
    run(instance, "h2", "passes")
    for _ in range(4):
        run(instance, "h1", "fails")
        daemon.tick()
    run(instance, "h2", "fails")
    daemon.tick()
    assert [(alert.partition, alert.kind) for alert in alerts] == [("h1", "failed"), ("h2", "failed")]
    run(instance, "h1", "passes")
    run(instance, "h1", "passes")
    daemon.tick()
    assert [(alert.partition, alert.kind) for alert in alerts[2:]] == [("h1", "recovered")]
    assert alerts[2].since == alerts[0].at
    run(instance, "h1", "fails")
    daemon.tick()
    assert [(alert.partition, alert.kind) for alert in alerts[3:]] == [("h1", "failed")]


def test_reminder_is_sent_after_hours_of_failures(instance: dg.DagsterInstance, alerts: list[Alert]) -> None:
    daemon = Daemon(instance)
    daemon.tick()
    hours = get_settings().alert_reminder_hours
    first = run(instance, "h1", "fails")
    second = run(instance, "h1", "fails")
    shift_end(instance, first.run_id, timedelta(hours=hours + 1))
    shift_end(instance, second.run_id, timedelta(hours=2))
    run(instance, "h1", "fails")
    run(instance, "h1", "fails")
    daemon.tick()
    assert [alert.kind for alert in alerts] == ["failed", "still failing"]
    assert alerts[1].since == alerts[0].at


def shift_end(instance: dg.DagsterInstance, run_id: str, by: timedelta) -> None:
    """Move the end of a run into the past."""
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        statement = db.update(RunsTable).where(RunsTable.c.run_id == run_id)
        connection.execute(statement.values(end_time=RunsTable.c.end_time - by.total_seconds()))


def test_failure_that_dagster_retries_sends_no_alert(instance: dg.DagsterInstance, alerts: list[Alert]) -> None:
    daemon = Daemon(instance)
    daemon.tick()
    retried = run(instance, "h1", "fails")
    instance.add_run_tags(retried.run_id, {"dagster/will_retry": "true"})
    daemon.tick()
    run(instance, "h1", "passes")
    daemon.tick()
    assert alerts == []


def test_sensor_is_invoked_directly_with_a_built_context(instance: dg.DagsterInstance, alerts: list[Alert]) -> None:
    result = run(instance, "h1", "fails")
    run_failures = build_definitions().resolve_sensor_def("run_failures")
    run_failures(
        dg.build_run_status_sensor_context(
            sensor_name="run_failures",
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            dagster_event=next(event for event in result.all_events if event.is_run_failure),
        ).for_run_failure()
    )
    assert [alert.partition for alert in alerts] == ["h1"]
