"""The retention of Dagster's records on a real SQLite instance with hundreds of aged runs and events.

The counts drop to the bound, and the state returned by Dagster stays the same.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import schema
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.storage.runs.schema import BulkActionsTable, RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs.asset_keys import EVENT_LOG
from cryptolake_assets.defs.instance.retention import Limits, census, purge
from cryptolake_assets.settings import PROJECT_ROOT, get_settings

BRONZE, SILVER, GOLD = (dg.AssetKey([name]) for name in ("bronze", "silver", "gold"))
HOURS = [f"h{number}" for number in range(6)]
PARTITIONS = dg.StaticPartitionsDefinition(HOURS)
HEARTBEAT = dg.AssetCheckKey(BRONZE, "heartbeat")
FAILING: set[str] = set()
OLD, RECENT = timedelta(days=40), timedelta(days=2)


@dg.asset(key=BRONZE, partitions_def=PARTITIONS)
def bronze_asset() -> None:
    """Reported without a run."""


@dg.asset_check(asset=BRONZE, name="heartbeat")
def heartbeat() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset(
    key=SILVER,
    deps=[BRONZE],
    partitions_def=PARTITIONS,
    output_required=False,
    check_specs=[dg.AssetCheckSpec("gate", asset=SILVER, blocking=True)],
)
def silver_asset(context: dg.AssetExecutionContext) -> Iterator[Any]:
    passed = context.partition_key not in FAILING
    yield dg.AssetCheckResult(asset_key=SILVER, check_name="gate", passed=passed)
    if not passed:
        raise dg.Failure("rejected", allow_retries=False)
    yield dg.MaterializeResult(asset_key=SILVER)


@dg.asset(key=GOLD, deps=[SILVER], partitions_def=PARTITIONS, automation_condition=dg.AutomationCondition.eager())
def gold_asset() -> None:
    """Follows Silver."""


DEFINITIONS = dg.Definitions(assets=[bronze_asset, silver_asset, gold_asset], asset_checks=[heartbeat])
JOB = DEFINITIONS.resolve_implicit_global_asset_job_def()


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home with 40 days of history, made once; tests work on copies."""
    home = tmp_path_factory.mktemp("aged")
    shutil.copy(PROJECT_ROOT / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run_all(instance, HOURS)
        repeat_all(instance, times=15)
        FAILING.update(("h4", "h5"))
        run_all(instance, ["h4", "h5"])
        report(instance, times=30)
        age(instance, OLD)
        tick_log(instance, "1", "old", OLD)
        run_all(instance, HOURS[:3])
        report(instance, times=3, hours=HOURS[:4])
        age(instance, RECENT)
        tick_log(instance, "2", "recent", RECENT)
        tick_log(instance, "3", "", RECENT)
        run(instance, GOLD, "h0")
    FAILING.clear()
    return home


@pytest.fixture
def instance(aged: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    shutil.copytree(aged, home)
    with dg.DagsterInstance.from_config(str(home)) as one:
        yield one


def run(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> None:
    JOB.execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[key],
        raise_on_error=False,
        tags={"cryptolake/request": f"{key.to_user_string()}.{partition}"},
    )


def run_all(instance: dg.DagsterInstance, hours: list[str]) -> None:
    for hour in hours:
        run(instance, SILVER, hour)
        run(instance, GOLD, hour)


def repeat_all(instance: dg.DagsterInstance, times: int) -> None:
    """Copy every run, with its rows and its file, under new ids: faster than running it again."""
    runs, events = instance.run_storage, instance.event_log_storage
    assert isinstance(runs, SqlRunStorage)
    assert isinstance(events, SqliteEventLogStorage)
    for old in [one.run_id for one in instance.get_runs()]:
        for _ in range(times):
            new = str(uuid4())
            with runs.connect() as connection:
                for table in (RunsTable, RunTagsTable):
                    copy_rows(connection, table, old, new)
            with events.index_connection() as connection:
                for table in (schema.SqlEventLogStorageTable, schema.AssetCheckExecutionsTable):
                    copy_rows(connection, table, old, new)
            shutil.copy(events.path_for_shard(old), events.path_for_shard(new))


def copy_rows(connection: db.Connection, table: db.Table, old: str, new: str) -> None:
    for row in list(connection.execute(db.select(table).where(table.c.run_id == old).order_by(table.c.id)).mappings()):
        values = {name: value.replace(old, new) if isinstance(value, str) else value for name, value in row.items()}
        del values["id"]
        connection.execute(db.insert(table).values(values))


def report(instance: dg.DagsterInstance, times: int, hours: list[str] = HOURS) -> None:
    """Report events without a run, as the follower and a health sensor do."""
    for number in range(times):
        for hour in hours:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(BRONZE, partition=hour, tags={"dagster/data_version": str(number)})
            )
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(BRONZE, "heartbeat", passed=number % 2 == 0, metadata={})
        )


def age(instance: dg.DagsterInstance, by: timedelta) -> None:
    """Make all existing records `by` older: rows, and the files of runs."""
    runs, events = instance.run_storage, instance.event_log_storage
    assert isinstance(runs, SqlRunStorage)
    assert isinstance(events, SqliteEventLogStorage)
    event, check = schema.SqlEventLogStorageTable, schema.AssetCheckExecutionsTable
    shift(events.index_connection, event, "timestamp", by)
    shift(events.index_connection, check, "evaluation_event_timestamp", by)
    shift(lambda: events.run_connection(""), event, "timestamp", by)
    shift(runs.connect, RunsTable, "update_timestamp", by)
    with runs.connect() as connection:
        connection.execute(db.update(RunsTable).values(end_time=RunsTable.c.end_time - by.total_seconds()))


def shift(connect: Any, table: db.Table, column: str, by: timedelta) -> None:
    key = table.c[column]
    with connect() as connection:
        for row in list(connection.execute(db.select(table.c.id, key))):
            connection.execute(db.update(table).where(table.c.id == row.id).values({column: row[1] - by}))


def tick_log(instance: dg.DagsterInstance, tick: str, text: str, age_: timedelta) -> Path:
    path = Path(instance.storage_directory()) / "__repository__" / "bronze_follower" / f"{tick}.err"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    at = time.time() - age_.total_seconds()
    os.utime(path, (at, at))
    return path


def limits() -> Limits:
    return Limits.of(get_settings(), datetime.now(UTC))


def state(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Return the state of assets, checks and runs that Dagster reports to its UI, automation and sensors."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    found: dict[str, Any] = {}
    for key in (BRONZE, SILVER, GOLD):
        name = key.to_user_string()
        found[f"{name} materialized"] = sorted(instance.get_materialized_partitions(key))
        found[f"{name} latest"] = instance.get_latest_materialization_event(key)
        for kind in (
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
            dg.DagsterEventType.ASSET_OBSERVATION,
        ):
            found[f"{name} {kind.value}"] = storage.get_latest_storage_id_by_partition(key, kind)
        attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(key)
        found[f"{name} attempts"] = {
            partition: (run_id, event, status_of(instance, run_id)) for partition, (run_id, event) in attempts.items()
        }
        found[f"{name} versions"] = storage.get_latest_tags_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, ["dagster/data_version"]
        )
        status = get_and_update_asset_status_cache_value(instance, key, PARTITIONS)
        found[f"{name} status"] = None if status is None else status._asdict()
    checks = [HEARTBEAT, dg.AssetCheckKey(SILVER, "gate")]
    found["check partitions"] = sorted(map(repr, storage.get_asset_check_partition_info(checks)))
    found["check states"] = {
        repr(key): record.last_check_execution_record
        for key, record in storage.get_asset_check_summary_records(checks).items()
    }
    found["checks completed"] = storage.get_asset_check_execution_history(
        checks[1], limit=1, status={AssetCheckExecutionRecordStatus.FAILED}
    )
    found["requested"] = requests(instance, None)
    found["newest event"] = storage.get_maximum_record_id()
    return found


def status_of(instance: dg.DagsterInstance, run_id: str) -> str | None:
    one = instance.get_run_by_id(run_id)
    return None if one is None else one.status.value


def requests(instance: dg.DagsterInstance, cursor: Any) -> dict[str, list[str]]:
    result = dg.evaluate_automation_conditions(DEFINITIONS, instance, cursor=cursor)
    return {key.to_user_string(): sorted(filter(None, result.get_requested_partitions(key))) for key in (SILVER, GOLD)}


def test_purge_reduces_the_counts_and_keeps_the_state(instance: dg.DagsterInstance) -> None:
    before, state_before = census(instance), state(instance)
    assert before.runs >= 200
    assert before.events + before.check_executions >= 1_000
    cursor = dg.evaluate_automation_conditions(DEFINITIONS, instance).cursor

    purged = purge(instance, limits())

    after = census(instance)
    assert state(instance) == state_before
    assert requests(instance, cursor) == {"silver": [], "gold": []}, "the purge causes no new request"
    assert purged.is_complete
    assert after.runs == before.runs - purged.runs
    # One run per (asset, partition) materialized 40 days ago, two failed hours, and the recent runs.
    assert after.runs <= 2 * len(HOURS) + 4 + 7
    assert after.events < before.events / 2
    assert after.check_executions <= 2 * (len(HOURS) + 2) + 3 + 3 + 2
    assert after.bytes_on_disk < before.bytes_on_disk / 2
    assert purged.file_bytes > 0
    assert purged.tick_logs == 2


def test_second_purge_deletes_nothing(instance: dg.DagsterInstance) -> None:
    purge(instance, limits())
    once = census(instance)
    again = purge(instance, limits())
    assert (again.runs, again.runs_trimmed, again.events, again.check_executions, again.tick_logs) == (0, 0, 0, 0, 0)
    assert census(instance).runs == once.runs


def test_run_kept_for_its_state_has_no_log_and_no_file(instance: dg.DagsterInstance) -> None:
    purged = purge(instance, limits())
    assert purged.runs_trimmed > 0
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    recent = {record.dagster_run.run_id for record in recent_runs(instance)}
    retained = [one.run_id for one in instance.get_runs() if one.run_id not in recent]
    assert recent
    assert set(storage.get_all_run_ids()) == recent
    with dg.DagsterInstance.from_config(instance.root_directory) as restarted:
        assert restarted.all_logs(retained[0]) == []


def test_purge_is_bounded_and_continues_the_next_time(instance: dg.DagsterInstance) -> None:
    state_before = state(instance)
    nothing = purge(instance, limits(), max_s=0.0)
    assert (nothing.is_complete, nothing.runs) == (False, 0)
    assert purge(instance, limits()).is_complete
    assert state(instance) == state_before


def test_records_within_the_retention_stay_complete(instance: dg.DagsterInstance) -> None:
    recent = [record.dagster_run.run_id for record in recent_runs(instance)]
    logs = {run_id: len(instance.all_logs(run_id)) for run_id in recent}
    assert len(recent) == 7
    purge(instance, limits())
    assert [record.dagster_run.run_id for record in recent_runs(instance)] == recent
    assert {run_id: len(instance.all_logs(run_id)) for run_id in recent} == logs
    (log,) = (Path(instance.storage_directory()) / "__repository__" / "bronze_follower").iterdir()
    assert log.read_text() == "recent"


def recent_runs(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    since = (datetime.now(UTC) - timedelta(days=3)).timestamp()
    return [record for record in instance.get_run_records() if (record.end_time or 0) > since]


def test_last_run_of_each_request_and_runs_in_flight_are_kept(instance: dg.DagsterInstance) -> None:
    in_flight = instance.create_run_for_job(JOB, status=dg.DagsterRunStatus.STARTED, tags={"cryptolake/request": "x.1"})
    waiting = instance.create_run_for_job(
        JOB, status=dg.DagsterRunStatus.NOT_STARTED, tags={"cryptolake/request": "x.2"}
    )
    instance.create_run_for_job(JOB, status=dg.DagsterRunStatus.SUCCESS)  # so that the runs above are not the newest
    runs = instance.run_storage
    assert isinstance(runs, SqlRunStorage)
    with runs.connect() as connection:
        long_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=90)
        connection.execute(
            db.update(RunsTable)
            .where(RunsTable.c.run_id.in_([in_flight.run_id, waiting.run_id]))
            .values(update_timestamp=long_ago)
        )
    expected = {hour: newest(instance, f"silver.{hour}") for hour in HOURS}
    purge(instance, limits())
    assert {hour: newest(instance, f"silver.{hour}") for hour in HOURS} == expected
    assert [newest(instance, request) for request in ("x.1", "x.2")] == [in_flight.run_id, waiting.run_id]


def newest(instance: dg.DagsterInstance, request: str) -> str:
    return instance.get_runs(dg.RunsFilter(tags={"cryptolake/request": request}), limit=1)[0].run_id


def test_ids_are_never_reused_after_a_purge(aged: Path, instance: dg.DagsterInstance) -> None:
    age(instance, timedelta(days=400))
    storage = instance.event_log_storage
    newest_event, newest_run = storage.get_maximum_record_id(), instance.get_run_records(limit=1)[0].storage_id
    purge(instance, limits())
    assert storage.get_maximum_record_id() == newest_event
    assert instance.get_run_records(limit=1)[0].storage_id == newest_run
    run(instance, GOLD, "h0")
    assert (storage.get_maximum_record_id() or 0) > (newest_event or 0)
    assert instance.get_run_records(limit=1)[0].storage_id > newest_run


def test_retried_run_is_kept_with_its_retry(instance: dg.DagsterInstance) -> None:
    records = instance.get_run_records(ascending=True, limit=1)
    root = records[0].dagster_run
    again = instance.create_run_for_job(
        JOB,
        status=dg.DagsterRunStatus.SUCCESS,
        root_run_id=root.run_id,
        parent_run_id=root.run_id,
        tags={"dagster/root_run_id": root.run_id, "dagster/parent_run_id": root.run_id},
    )
    purge(instance, limits())
    group = instance.get_run_group(again.run_id)
    assert group is not None
    assert {one.run_id for one in group[1]} == {root.run_id, again.run_id}


def test_finished_backfills_are_deleted_with_their_runs(instance: dg.DagsterInstance) -> None:
    from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

    long_ago = time.time() - 40 * 86_400
    for name, status in (
        ("done", BulkActionStatus.COMPLETED_SUCCESS),
        ("runs", BulkActionStatus.REQUESTED),
        ("newest", BulkActionStatus.COMPLETED_SUCCESS),
    ):
        instance.add_backfill(
            PartitionBackfill(backfill_id=name, status=status, from_failure=False, tags={}, backfill_timestamp=long_ago)
        )
    assert purge(instance, limits()).backfills == 1
    assert sorted(one.backfill_id for one in instance.get_backfills()) == ["newest", "runs"]
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        assert connection.execute(db.select(db.func.count()).select_from(BulkActionsTable)).scalar_one() == 2


def test_asset_reports_counts_and_bytes(instance: dg.DagsterInstance) -> None:
    job = build_definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, asset_selection=[EVENT_LOG])
    (event,) = result.asset_materializations_for_node(EVENT_LOG.to_python_identifier())
    metadata: dict[str, Any] = {name: value.value for name, value in event.metadata.items()}
    assert metadata["complete"] is True
    assert metadata["runs_deleted"] > 0
    for name in asdict(census(instance)):
        assert metadata[f"{name}_after"] < metadata[f"{name}_before"], json.dumps(metadata)
