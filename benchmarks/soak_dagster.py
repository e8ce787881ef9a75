"""A Dagster instance with the records of many hours of Bronze and Silver, as its retention leaves them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.partitions import GraphPartitions, hour_key
from cryptolake_assets.defs.silver import check_keys
from cryptolake_assets.model.markets import Family
from cryptolake_assets.platform.parts import dagster_files
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import sqlalchemy as db

KEPT_WHOLE = timedelta(
    days=2
)  # runs and events of the last days are complete; of older ones the retention keeps states
BATCH = 500


def silver_of(partitions: GraphPartitions) -> dg.AssetsDefinition:
    """Return an asset with Silver's key, partitions and checks that computes nothing."""

    @dg.asset(
        key=asset_keys.FUTURES.bars,
        partitions_def=partitions.hourly,
        check_specs=[
            dg.AssetCheckSpec(key.name, asset=key.asset_key, blocking=True, partitions_def=partitions.hourly)
            for key in check_keys(Family.FUTURES)
        ],
    )
    def silver() -> Iterator[dg.MaterializeResult[Any]]:
        results = [dg.AssetCheckResult(passed=True, check_name=key.name) for key in check_keys(Family.FUTURES)]
        yield dg.MaterializeResult(check_results=results)

    return silver


def run_silver(instance: dg.DagsterInstance, partitions: GraphPartitions, hour: datetime) -> None:
    """Execute a run of the asset for one hour, with all of its events."""
    assert dg.materialize([silver_of(partitions)], instance=instance, partition_key=hour_key(hour)).success


def report_bronze(instance: dg.DagsterInstance, hour: datetime) -> None:
    """Report a materialization of Bronze, as the follower does."""
    event = dg.AssetMaterialization(asset_keys.FUTURES.trades, partition=hour_key(hour), metadata={"rows_added": 1})
    instance.report_runless_asset_event(event)


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the instance of the lake's home, with the files that `cryptolake up` writes."""
    for path, text in dagster_files(settings).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return dg.DagsterInstance.from_config(str(settings.dagster_home))


def make_history(settings: Settings, partitions: GraphPartitions, first: datetime, hours: int) -> None:
    """Record a run of Silver and an event of Bronze for each hour; one hour's records are made and then copied."""
    from dagster._core.storage.event_log import schema
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
    from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    with open_instance(settings) as instance:
        last = first + (hours - 1) * timedelta(hours=1)
        report_bronze(instance, last)
        run_silver(instance, partitions, last)
        runs, events = instance.run_storage, instance.event_log_storage
        assert isinstance(runs, SqlRunStorage)
        assert isinstance(events, SqlEventLogStorage)
        others = [first + number * timedelta(hours=1) for number in range(hours - 1)]
        (run,) = instance.get_runs()
        with runs.connect() as connection:
            for table in (RunsTable, RunTagsTable):
                _copy(connection, table, run.run_id, last, others)
        with events.index_connection() as connection:
            for table in (schema.SqlEventLogStorageTable, schema.AssetCheckExecutionsTable):
                _copy(connection, table, run.run_id, last, others)


def _copy(connection: db.Connection, table: db.Table, run_id: str, at: datetime, hours: Sequence[datetime]) -> None:
    """Copy the rows of the run and of the hour to each of these hours, with a run id of its own."""
    import sqlalchemy as db

    rows = [dict(row) for row in connection.execute(db.select(table)).mappings()]
    values: list[Mapping[str, Any]] = []
    for hour in hours:
        new_id = str(uuid.uuid5(uuid.NAMESPACE_URL, hour.isoformat()))
        for row in rows:
            is_state = row.get("asset_key") is not None or "event" not in row
            if is_state or hour > at - KEPT_WHOLE:
                values.append(_moved(row, {run_id: new_id, hour_key(at): hour_key(hour)}, hour))
    for start in range(0, len(values), BATCH):
        connection.execute(db.insert(table), values[start : start + BATCH])


def _moved(row: Mapping[str, Any], names: Mapping[str, str], hour: datetime) -> dict[str, Any]:
    """Return the row without its id, with other names, and with the times of the hour."""
    moved = {name: value for name, value in row.items() if name != "id"}
    for name, value in moved.items():
        if isinstance(value, str):
            for old, new in names.items():
                value = value.replace(old, new)
            moved[name] = value
        elif isinstance(value, datetime):
            moved[name] = hour.replace(tzinfo=None)
        elif name in ("start_time", "end_time"):
            moved[name] = hour.timestamp()
    return moved


def partition_status(instance: dg.DagsterInstance, partitions: GraphPartitions) -> int:
    """Return the number of Silver's materialized partitions, as Dagster's pages show it."""
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    value = get_and_update_asset_status_cache_value(instance, asset_keys.FUTURES.bars, partitions.hourly)
    assert value is not None
    return len(value.deserialize_materialized_partition_subsets(partitions.hourly))
