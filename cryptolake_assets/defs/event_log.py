"""Retention of Dagster's own records, as an asset with a schedule. A thin adapter of `instance.retention`."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.described import OWNERS
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.resources import LakeResource

WORK_S = 600.0  # time budget of one run; the next one deletes the rest


@dg.asset(
    key=asset_keys.EVENT_LOG,
    group_name="maintenance",
    kinds={"dagster"},
    owners=OWNERS,
    tags={"layer": "maintenance", "cadence": "day"},
    freshness_policy=dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50)),
    retry_policy=dg.RetryPolicy(max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS),
    description=(
        "Deletes Dagster's runs, events and logs that are older than their retention. Keeps the state of every "
        "partition and check, now and at any time within the retention."
    ),
)
def dagster_event_log(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    from cryptolake_assets.defs.instance.retention import Limits, census, purge

    before = census(context.instance)
    purged = purge(context.instance, Limits.of(lake.settings, datetime.now(UTC)), max_s=WORK_S)
    after = census(context.instance)
    return dg.MaterializeResult(
        metadata={
            **{f"{name}_before": count for name, count in vars(before).items()},
            **{f"{name}_after": count for name, count in vars(after).items()},
            "runs_deleted": purged.runs,
            "runs_trimmed": purged.runs_trimmed,
            "events_deleted": purged.events,
            "check_executions_deleted": purged.check_executions,
            "backfills_deleted": purged.backfills,
            "tick_logs_deleted": purged.tick_logs,
            "file_bytes_deleted": purged.file_bytes,
            "complete": purged.is_complete,
        }
    )


event_log_retention = dg.define_asset_job(
    "event_log_retention",
    selection=dg.AssetSelection.assets(asset_keys.EVENT_LOG),
    tags={"dagster/max_runtime": "1800"},
    description="Deletes old runs, events and logs of Dagster; see CRYPTOLAKE_RUN_RETENTION_DAYS.",
)

event_log_retention_daily = dg.ScheduleDefinition(
    name="event_log_retention_daily",
    job=event_log_retention,
    cron_schedule="17 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Daily at 03:17 UTC.",
)


def definitions(_: Graph) -> dg.Definitions:
    """Return the asset, its job and its schedule."""
    return dg.Definitions(assets=[dagster_event_log], jobs=[event_log_retention], schedules=[event_log_retention_daily])
