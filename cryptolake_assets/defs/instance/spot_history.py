"""Dagster's history of a Spot home of an earlier release, whose assets were named after futures.

The rows of the event log get the new asset keys: ids, times, partitions, data versions and check results stay. States
of schedules and of the follower's sensor get the new names. Runs and backfills of the old assets that have not finished
are canceled; the follower requests their hours again. Once per instance, and safe to repeat after a crash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import structlog

from cryptolake_assets.binance.stream_types import SPOT_TRADES, TRADES
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.follower import IN_FLIGHT, sensor_name
from cryptolake_assets.defs.graph import name_of
from cryptolake_assets.defs.instance.retention import storages, transact
from cryptolake_assets.lake.spot_home import was_made_for_spot
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = structlog.get_logger(__name__)

DONE_KEY: Final = "cryptolake/spot_history"  # in Dagster's key-value store
# Schedules and their jobs.
_SCHEDULED: Final = ("bronze_to_silver_1m_hourly", "silver_to_gold_daily_daily")


def move_spot_history(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Move the history to the new names, if the lake was made for Spot; raise the catalog's errors.

    An instance without events of the old assets needs no look at the lake.
    """
    cursors = instance.daemon_cursor_storage
    if DONE_KEY in cursors.get_cursor_values({DONE_KEY}):
        return
    keys = dict(zip(vars(asset_keys.FUTURES).values(), vars(asset_keys.SPOT).values(), strict=True))
    is_needed = any(map(instance.has_asset_key, keys)) and was_made_for_spot(settings)
    if is_needed:
        _cancel_unfinished(instance, keys)
        _move_states(instance)
        _rename_assets(instance, keys)
        log.info("spot_history_moved")
    cursors.set_cursor_values({DONE_KEY: "moved" if is_needed else "not needed"})


def _cancel_unfinished(instance: dg.DagsterInstance, keys: Mapping[dg.AssetKey, dg.AssetKey]) -> None:
    from dagster._core.execution.backfill import BulkActionStatus

    for backfill in instance.get_backfills(status=BulkActionStatus.REQUESTED):
        if not keys.keys().isdisjoint(backfill.asset_selection or ()):
            instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))  # type: ignore[no-untyped-call]
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT)):
        if not keys.keys().isdisjoint(run.asset_selection or ()):
            instance.report_run_canceled(run, message="The asset of this run has another name now.")


def _move_states(instance: dg.DagsterInstance) -> None:
    """Move the states, which hold cursors, of schedules and of the follower's sensor."""
    from dagster._core.remote_origin import RemoteInstigatorOrigin
    from dagster._core.scheduler.instigation import InstigatorState

    names = {name: name_of(Family.SPOT, name) for name in _SCHEDULED}
    names[sensor_name(TRADES)] = sensor_name(SPOT_TRADES)
    states = {state.instigator_name: state for state in instance.all_instigator_state()}
    for old, new in names.items():
        if (state := states.get(old)) is None:
            continue
        if new not in states:
            origin = RemoteInstigatorOrigin(state.origin.repository_origin, new)
            moved = InstigatorState(origin, state.instigator_type, state.status, state.instigator_data)
            instance.add_instigator_state(moved)
        instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)


def _rename_assets(instance: dg.DagsterInstance, keys: Mapping[dg.AssetKey, dg.AssetKey]) -> None:
    """Rename the assets in all tables of the event log, in one transaction."""
    _, events = storages(instance)

    def rename(connection: Connection) -> None:
        for old, new in keys.items():
            _rename(connection, old, new)

    transact(events.index_connection, rename)


def _rename(connection: Connection, old: dg.AssetKey, new: dg.AssetKey) -> None:
    import sqlalchemy as db
    from dagster._core.storage.event_log import schema

    before, after = old.to_string(), new.to_string()

    def renamed(column: Any) -> Any:
        return db.func.replace(column, json.dumps(old.path), json.dumps(new.path))

    assets = schema.AssetKeyTable
    # An event of the new asset can only be of this start, before its history is there.
    connection.execute(db.delete(assets).where(assets.c.asset_key == after))
    for table, texts in (
        (assets, ("last_materialization", "asset_details")),
        (schema.SqlEventLogStorageTable, ("event",)),
        (schema.AssetCheckExecutionsTable, ("evaluation_event",)),
        (schema.AssetEventTagsTable, ()),
    ):
        values = {name: renamed(table.c[name]) for name in texts}
        connection.execute(db.update(table).where(table.c.asset_key == before).values(asset_key=after, **values))
