"""Dagster's SQLite event log with a cache of the checks' states, so that the daemon does not compute them from scratch.

Dagster (1.13) keeps such states in its own service only. Without them, each evaluation of the automation that asks for
failed checks reads the executions of every partition: 13 s of CPU with a year of hours. A process reads them once, and
then those of the partitions with a newer materialization, a newer execution, or an execution that was not finished.

Every process of the instance imports this module, so it also sets how long they wait for each other's locks.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.asset_graph_view.serializable_entity_subset import SerializableEntitySubset
from dagster._core.storage.asset_check_execution_record import AssetCheckPartitionInfo
from dagster._core.storage.asset_check_state import AssetCheckState, bulk_update_asset_check_state
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from sqlalchemy import event
from sqlalchemy.engine import Engine

LOCK_WAIT_MS = 30_000

Checks = Mapping[dg.AssetCheckKey, dg.PartitionsDefinition]
States = dict[dg.AssetCheckKey, AssetCheckState]


@event.listens_for(Engine, "connect")
def _wait_for_locks(connection: object, _record: object) -> None:
    """Wait as long for a lock on Dagster's runs and schedules as for one on its events; its default is five seconds.

    A process that is stopped, or starved of CPU, within a transaction would fail ticks and launches of the others.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")


class _Position(NamedTuple):
    """The newest ids of events and of check executions; SQLite commits in the order of the ids."""

    event: int
    execution: int


class CheckStatesEventLogStorage(SqliteEventLogStorage):
    """The storage that `dagster.yaml` names; each process has a cache of its own."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._states: States = {}
        self._read_to: dict[dg.AssetCheckKey, _Position] = {}
        self._states_lock = threading.Lock()  # the daemon evaluates several sensors at once

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> CheckStatesEventLogStorage:
        return cls(inst_data=inst_data, **config_value)

    def get_asset_check_state(
        self, keys: Sequence[tuple[dg.AssetCheckKey, dg.PartitionsDefinition | None]]
    ) -> Mapping[dg.AssetCheckKey, AssetCheckState]:
        """Return the checks' states: those of the last call, and what happened since."""
        found: States = {}
        without_partitions = [(key, partitions) for key, partitions in keys if partitions is None]
        if without_partitions:
            found |= super().get_asset_check_state(without_partitions)
        by_asset: defaultdict[dg.AssetKey, dict[dg.AssetCheckKey, dg.PartitionsDefinition]] = defaultdict(dict)
        for key, partitions in keys:
            if partitions is not None:
                by_asset[key.asset_key][key] = partitions
        with self._states_lock:
            for asset, checks in by_asset.items():
                found |= self._of_asset(asset, checks)
        return found

    def _of_asset(self, asset: dg.AssetKey, checks: Checks) -> States:
        end = self._end()  # before the reads, so that the next call reads what is written meanwhile
        known = {
            key: partitions
            for key, partitions in checks.items()
            if key in self._states and self._states[key].compatible_with(partitions)
        }
        unknown = {key: partitions for key, partitions in checks.items() if key not in known}
        if known:
            self._update(asset, known)
        if unknown:
            empty = dict.fromkeys(unknown, AssetCheckState.empty())
            self._states |= bulk_update_asset_check_state(self._instance, list(unknown.items()), empty)
        self._read_to |= dict.fromkeys(checks, end)
        return {key: self._states[key] for key in checks}

    def _update(self, asset: dg.AssetKey, checks: Checks) -> None:
        since = [self._read_to[key] for key in checks]
        changed = self._changed(asset, min(one.event for one in since), min(one.execution for one in since))
        for key in checks:
            for subset in self._states[key].in_progress_runs.values():
                changed |= set(subset.subset_value.get_partition_keys())
        if not changed:
            return
        infos: defaultdict[dg.AssetCheckKey, list[AssetCheckPartitionInfo]] = defaultdict(list)
        for info in self.get_asset_check_partition_info(list(checks), partition_keys=sorted(changed)):
            infos[info.check_key].append(info)
        run_ids = sorted({info.latest_planned_run_id for found in infos.values() for info in found})
        finished = (
            self._instance.get_runs(dg.RunsFilter(run_ids=run_ids, statuses=FINISHED_STATUSES)) if run_ids else []
        )
        statuses = {run.run_id: run.status for run in finished}
        for key, partitions in checks.items():
            state = _without(self._states[key], key, partitions, changed)
            self._states[key] = state.with_updates(key, partitions, infos[key], statuses)

    def _end(self) -> _Position:
        import sqlalchemy as db

        with self.index_connection() as connection:
            newest = [
                connection.execute(db.select(db.func.max(table.c.id))).scalar() or 0
                for table in (SqlEventLogStorageTable, AssetCheckExecutionsTable)
            ]
        return _Position(*newest)

    def _changed(self, asset: dg.AssetKey, after_event: int, after_execution: int) -> set[str]:
        """Return the asset's partitions with a later materialization or check execution.

        The queries filter by id alone, so that they read the newest rows and not the index of the asset.
        """
        import sqlalchemy as db

        event, execution = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
        materialization = dg.DagsterEventType.ASSET_MATERIALIZATION.value
        events = db.select(event.asset_key, event.partition, event.dagster_event_type).where(event.id > after_event)
        executions = db.select(execution.asset_key, execution.partition).where(execution.id > after_execution)
        with self.index_connection() as connection:
            rows = [row[:2] for row in connection.execute(events) if row[2] == materialization]
            rows += [row[:2] for row in connection.execute(executions)]
        return {partition for key, partition in rows if key == asset.to_string() and partition is not None}

    def wipe(self) -> None:
        self._forget()
        super().wipe()

    def wipe_asset(self, asset_key: dg.AssetKey) -> None:
        self._forget()
        super().wipe_asset(asset_key)

    def _forget(self) -> None:
        with self._states_lock:
            self._states.clear()
            self._read_to.clear()


def _without(
    state: AssetCheckState, key: dg.AssetCheckKey, partitions: dg.PartitionsDefinition, changed: Collection[str]
) -> AssetCheckState:
    """Return the state without the changed partitions.

    Dagster's update adds a partition to its new status and leaves it in the old one.
    """
    subset = SerializableEntitySubset.empty(key, partitions)
    for name in changed:
        if partitions.has_partition_key(name):
            subset = subset.compute_union(SerializableEntitySubset.from_coercible_value(key, name, partitions))
    return AssetCheckState(
        latest_storage_id=state.latest_storage_id,
        subsets={status: known.compute_difference(subset) for status, known in state.subsets.items()},
        in_progress_runs={
            run: rest
            for run, known in state.in_progress_runs.items()
            if not (rest := known.compute_difference(subset)).is_empty
        },
    )
