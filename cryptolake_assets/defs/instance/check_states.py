"""Dagster's SQLite event log with a cache of the checks' states, so that the daemon does not compute them from scratch.

Dagster (1.13) keeps such states in its own service only. Without them, each evaluation of the automation that asks for
failed checks reads the executions of every partition: 13 s of CPU with a year of hours. A process builds them once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.asset_graph_view.serializable_entity_subset import SerializableEntitySubset
from dagster._core.storage.asset_check_state import AssetCheckState, bulk_update_asset_check_state
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData

CheckOfPartitions = tuple[dg.AssetCheckKey, dg.PartitionsDefinition | None]


class CheckStatesEventLogStorage(SqliteEventLogStorage):
    """The storage that `dagster.yaml` names; each process has a cache of its own."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._states: dict[dg.AssetCheckKey, AssetCheckState] = {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> CheckStatesEventLogStorage:
        return cls(inst_data=inst_data, **config_value)

    def get_asset_check_state(self, keys: Sequence[CheckOfPartitions]) -> Mapping[dg.AssetCheckKey, AssetCheckState]:
        """Return the checks' states: those of the last call, and what happened since."""
        for key, partitions in keys:  # one by one: Dagster reads from the oldest state of a call on
            self._states[key] = self._updated(key, partitions)
        return {key: self._states[key] for key, _ in keys}

    def _updated(self, key: dg.AssetCheckKey, partitions: dg.PartitionsDefinition | None) -> AssetCheckState:
        state = self._states.get(key)
        if state is None or not state.compatible_with(partitions):
            state = AssetCheckState.empty()
        elif changes := self.get_asset_check_partition_info([key], after_storage_id=state.latest_storage_id):
            state = _without(state, key, partitions, {change.partition_key for change in changes})
        elif not state.in_progress_runs:
            return state
        return bulk_update_asset_check_state(self._instance, [(key, partitions)], {key: state})[key]

    def wipe(self) -> None:
        self._states.clear()
        super().wipe()

    def wipe_asset(self, asset_key: dg.AssetKey) -> None:
        self._states.clear()
        super().wipe_asset(asset_key)


def _without(
    state: AssetCheckState,
    key: dg.AssetCheckKey,
    partitions: dg.PartitionsDefinition | None,
    changed: Collection[str | None],
) -> AssetCheckState:
    """Return the state without the changed partitions.

    Dagster's update adds a partition to its new status and leaves it in the old one.
    """
    subset = SerializableEntitySubset.empty(key, partitions)
    for name in changed:
        if partitions is None or (name is not None and partitions.has_partition_key(name)):
            subset = subset.compute_union(SerializableEntitySubset.from_coercible_value(key, name, partitions))
    return AssetCheckState(
        latest_storage_id=state.latest_storage_id,
        subsets={status: known.compute_difference(subset) for status, known in state.subsets.items()},
        in_progress_runs={run: known.compute_difference(subset) for run, known in state.in_progress_runs.items()},
    )
