"""A Spot home of an earlier release keeps its Dagster history under its new names, on a real SQLite instance."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.test_utils import create_run_for_test

from cryptolake_assets.defs.asset_keys import FUTURES, SPOT
from cryptolake_assets.defs.instance import spot_history
from cryptolake_assets.defs.instance.spot_history import move_spot_history
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.spot_home import FAMILY_PROPERTY
from cryptolake_assets.lake.spot_home import SPOT as TABLES
from cryptolake_assets.settings import PROJECT_ROOT, Settings

HOURS = [f"h{number}" for number in range(4)]
PARTITIONS = dg.StaticPartitionsDefinition(HOURS)
OTHER = dg.AssetKey(["silver", "fear_greed_daily"])
REPOSITORY = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("assets"), "__repository__")
KEYS = (FUTURES.trades, FUTURES.bars, FUTURES.daily)


def definitions(trades: dg.AssetKey, bars: dg.AssetKey) -> dg.Definitions:
    """Return Bronze and Silver with these keys."""

    @dg.asset(
        key=bars,
        deps=[trades],
        partitions_def=PARTITIONS,
        check_specs=[dg.AssetCheckSpec("gate", asset=bars, blocking=True)],
    )
    def silver() -> Iterator[Any]:
        yield dg.AssetCheckResult(asset_key=bars, check_name="gate", passed=True)
        yield dg.MaterializeResult(asset_key=bars, data_version=dg.DataVersion("v1"))

    return dg.Definitions(assets=[silver])


@pytest.fixture(scope="module")
def old_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home with the history of an earlier release, made once; tests work on copies."""
    home = tmp_path_factory.mktemp("dagster")
    shutil.copy(PROJECT_ROOT / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as one:
        for hour in HOURS[:3]:
            one.report_runless_asset_event(dg.AssetMaterialization(FUTURES.trades, partition=hour))
        one.report_runless_asset_event(dg.AssetMaterialization(FUTURES.daily, partition="d0"))
        one.report_runless_asset_event(dg.AssetMaterialization(OTHER))
        job = definitions(FUTURES.trades, FUTURES.bars).resolve_implicit_global_asset_job_def()
        for hour in HOURS[:2]:
            assert job.execute_in_process(instance=one, partition_key=hour).success
        one.add_instigator_state(
            InstigatorState(
                RemoteInstigatorOrigin(REPOSITORY, "bronze_follower"),
                InstigatorType.SENSOR,
                InstigatorStatus.STOPPED,
                SensorInstigatorData(cursor="the cursor", last_run_key="key"),
            )
        )
    return home


@pytest.fixture
def instance(old_home: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    shutil.copytree(old_home, home)
    with dg.DagsterInstance.from_config(str(home)) as one:
        yield one


@pytest.fixture
def spot_lake(lake: Settings) -> Settings:
    with load_table(lake, TABLES.trades).transaction() as transaction:
        transaction.set_properties({FAMILY_PROPERTY: "spot"})
    return lake


def history(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[tuple[Any, ...]]:
    """Return id, time, partition and tags of each materialization."""
    records = instance.fetch_materializations(key, limit=100).records
    return [
        (one.storage_id, one.timestamp, one.partition_key, one.asset_materialization.tags)
        for one in records
        if one.asset_materialization is not None
    ]


def sensor_states(instance: dg.DagsterInstance) -> dict[str, tuple[InstigatorStatus, str | None]]:
    found = {}
    for state in instance.all_instigator_state():
        data = state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        found[state.instigator_name] = (state.status, data.cursor)
    return found


def test_history_has_the_new_names_and_the_old_ids_and_times(instance: dg.DagsterInstance, spot_lake: Settings) -> None:
    before = {key: history(instance, key) for key in KEYS}
    assert [len(of_key) for of_key in before.values()] == [3, 2, 1]
    move_spot_history(spot_lake, instance)
    assert [history(instance, key) for key in (SPOT.trades, SPOT.bars, SPOT.daily)] == list(before.values())
    assert not any(instance.has_asset_key(key) or history(instance, key) for key in KEYS)
    assert instance.get_materialized_partitions(SPOT.bars) == set(HOURS[:2])
    assert instance.get_materialized_partitions(SPOT.trades) == set(HOURS[:3])
    event = instance.get_latest_materialization_event(SPOT.bars)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.asset_key == SPOT.bars
    assert history(instance, OTHER)


def test_check_results_have_the_new_names(instance: dg.DagsterInstance, spot_lake: Settings) -> None:
    old, new = dg.AssetCheckKey(FUTURES.bars, "gate"), dg.AssetCheckKey(SPOT.bars, "gate")
    storage = instance.event_log_storage
    before = storage.get_latest_asset_check_execution_by_key([old])[old]
    move_spot_history(spot_lake, instance)
    (after,) = storage.get_latest_asset_check_execution_by_key([old, new]).values()
    assert (after.id, after.run_id, after.status) == (before.id, before.run_id, before.status)
    assert after.key == new
    assert after.event is not None
    assert after.event.dagster_event is not None
    assert after.event.dagster_event.asset_check_evaluation_data.asset_key == SPOT.bars


def test_later_runs_continue_the_history(instance: dg.DagsterInstance, spot_lake: Settings) -> None:
    move_spot_history(spot_lake, instance)
    job = definitions(SPOT.trades, SPOT.bars).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, partition_key=HOURS[3]).success
    assert instance.get_materialized_partitions(SPOT.bars) == {*HOURS[:2], HOURS[3]}


def test_follower_keeps_its_cursor_and_status(instance: dg.DagsterInstance, spot_lake: Settings) -> None:
    move_spot_history(spot_lake, instance)
    assert sensor_states(instance) == {"spot_trades_follower": (InstigatorStatus.STOPPED, "the cursor")}


def test_unfinished_runs_of_old_assets_are_canceled(instance: dg.DagsterInstance, spot_lake: Settings) -> None:
    runs = {
        key: create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({key}))
        for key in (FUTURES.bars, OTHER)
    }
    move_spot_history(spot_lake, instance)
    statuses = {}
    for key, run in runs.items():
        stored = instance.get_run_by_id(run.run_id)
        assert stored is not None
        statuses[key] = stored.status
    assert statuses == {FUTURES.bars: dg.DagsterRunStatus.CANCELED, OTHER: dg.DagsterRunStatus.STARTED}


def test_crash_before_the_end_is_made_good(
    instance: dg.DagsterInstance, spot_lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = history(instance, FUTURES.bars), []
    rename = spot_history._rename

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        rename(*arguments)
        if len(calls) == 3:
            raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(spot_history, "_rename", fail)
        with pytest.raises(OSError, match="killed"):
            move_spot_history(spot_lake, instance)
    assert history(instance, FUTURES.bars) == before
    move_spot_history(spot_lake, instance)
    assert history(instance, SPOT.bars) == before
    assert set(sensor_states(instance)) == {"spot_trades_follower"}


def test_history_of_a_futures_lake_stays(instance: dg.DagsterInstance, lake: Settings) -> None:
    before = history(instance, FUTURES.bars)
    move_spot_history(lake, instance)
    assert history(instance, FUTURES.bars) == before
    assert set(sensor_states(instance)) == {"bronze_follower"}


def test_futures_that_a_moved_home_tracks_later_keep_their_names(
    instance: dg.DagsterInstance, spot_lake: Settings
) -> None:
    move_spot_history(spot_lake, instance)
    instance.report_runless_asset_event(dg.AssetMaterialization(FUTURES.trades, partition="h0"))
    move_spot_history(spot_lake, instance)
    assert instance.get_materialized_partitions(FUTURES.trades) == {"h0"}
