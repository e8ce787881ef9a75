"""The cached states of checks equal those that Dagster computes from all executions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.storage.asset_check_state import AssetCheckState, bulk_update_asset_check_state

from cryptolake_assets.defs.instance.check_states import LOCK_WAIT_MS, CheckStatesEventLogStorage
from cryptolake_assets.platform.parts import dagster_files
from cryptolake_assets.settings import Settings

ASSET = dg.AssetKey(["silver", "bars"])
PARTITIONS = dg.HourlyPartitionsDefinition("2024-07-19-00:00", "2024-07-20-00:00")
KEYS = [dg.AssetCheckKey(ASSET, name) for name in ("first", "second", "never")]
OF_HOURS = [(key, PARTITIONS) for key in KEYS]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Open an instance as `cryptolake up` configures it."""
    settings = Settings(home=tmp_path)
    for path, text in dagster_files(settings).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as opened:
        yield opened


def storage_of(instance: dg.DagsterInstance) -> CheckStatesEventLogStorage:
    storage: Any = instance.event_log_storage
    assert isinstance(storage, CheckStatesEventLogStorage)
    return storage


def judge(instance: dg.DagsterInstance, name: str, hour: str, *, passed: bool) -> None:
    evaluation = dg.AssetCheckEvaluation(ASSET, name, passed=passed, partition=hour, blocking=True)
    event = dg.DagsterEvent(dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, "job", event_specific_data=evaluation)
    instance.report_dagster_event(event, run_id=str(uuid4()))


def subsets(states: Any) -> dict[str, dict[str, list[str]]]:
    """Return the hours by status and check."""
    return {
        key.name: {
            status.value: sorted(subset.subset_value.get_partition_keys())
            for status, subset in states[key].subsets.items()
            if len(subset.subset_value)
        }
        for key in KEYS
    }


@pytest.mark.parametrize("seed", range(3))
def test_cached_states_equal_those_of_all_executions(instance: dg.DagsterInstance, seed: int) -> None:
    chosen = random.Random(seed)  # noqa: S311 - reproducible data, no secret
    hours = PARTITIONS.get_partition_keys()[:5]
    for _ in range(12):
        for _ in range(chosen.randrange(4)):
            hour = chosen.choice(hours)
            if chosen.randrange(2):
                judge(instance, chosen.choice(["first", "second"]), hour, passed=bool(chosen.randrange(2)))
            else:
                instance.report_runless_asset_event(dg.AssetMaterialization(ASSET, partition=hour))
        empty = dict.fromkeys(KEYS, AssetCheckState.empty())
        expected = bulk_update_asset_check_state(instance, OF_HOURS, empty)
        if chosen.randrange(3) == 0:  # an evaluation that asks for one of the checks
            storage_of(instance).get_asset_check_state([chosen.choice(OF_HOURS)])
            continue
        assert subsets(storage_of(instance).get_asset_check_state(OF_HOURS)) == subsets(expected)


def test_known_states_are_read_from_the_last_event_on(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in PARTITIONS.get_partition_keys()[:4]:
        judge(instance, "first", hour, passed=True)
    storage, read = storage_of(instance), list[int]()
    storage.get_asset_check_state(OF_HOURS)
    original = storage.get_asset_check_partition_info

    def counted(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        read.append(len(found))
        return found

    monkeypatch.setattr(storage, "get_asset_check_partition_info", counted)
    judge(instance, "first", PARTITIONS.get_partition_keys()[1], passed=False)
    storage.get_asset_check_state(OF_HOURS)
    assert read == [1], "the changed hour, in one query of all checks"
    storage.get_asset_check_state(OF_HOURS)
    assert read == [1], "nothing changed"


def test_states_of_other_partitions_are_computed_again(instance: dg.DagsterInstance) -> None:
    judge(instance, "first", PARTITIONS.get_partition_keys()[0], passed=True)
    storage = storage_of(instance)
    storage.get_asset_check_state(OF_HOURS)
    days = dg.DailyPartitionsDefinition("2024-07-19", "2024-07-20")
    of_days = storage.get_asset_check_state([(KEYS[0], days)])[KEYS[0]]
    assert not any(len(subset.subset_value) for subset in of_days.subsets.values())


def test_states_follow_the_runs_of_an_asset(instance: dg.DagsterInstance) -> None:
    """A run plans its checks first; a rejected candidate has no materialization."""
    outcomes: list[bool] = []

    @dg.asset(
        key=ASSET,
        partitions_def=PARTITIONS,
        output_required=False,
        check_specs=[dg.AssetCheckSpec("first", asset=ASSET, blocking=True, partitions_def=PARTITIONS)],
    )
    def bars() -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
        result = dg.AssetCheckResult(passed=outcomes[-1], asset_key=ASSET, check_name="first")
        if outcomes[-1]:
            yield dg.MaterializeResult(asset_key=ASSET, check_results=[result])
        else:
            yield result
            raise dg.Failure("rejected", allow_retries=False)

    hour, storage = PARTITIONS.get_partition_keys()[2], storage_of(instance)
    found = []
    for passed in (True, False, True):
        outcomes.append(passed)
        dg.materialize([bars], instance=instance, partition_key=hour, raise_on_error=False)
        found.append(subsets(storage.get_asset_check_state(OF_HOURS)))
        empty = dict.fromkeys(KEYS, AssetCheckState.empty())
        assert found[-1] == subsets(bulk_update_asset_check_state(instance, OF_HOURS, empty))
    assert [state["first"] for state in found] == [{"SUCCEEDED": [hour]}, {"FAILED": [hour]}, {"SUCCEEDED": [hour]}]


def test_all_databases_wait_long_for_locks(instance: dg.DagsterInstance) -> None:
    storages: tuple[Any, ...] = (instance.run_storage, instance.schedule_storage)
    for connect in (*(one.connect for one in storages), storage_of(instance).index_connection):
        with connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == LOCK_WAIT_MS
