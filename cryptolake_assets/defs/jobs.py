"""The named jobs of the pipeline and their schedules.

Sensors and automation conditions process data as it arrives. The schedules are a safety net: they catch up with Kafka
if the stream is down, and process each hour and day again after it has closed on the exchange's clock.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from cryptolake_assets.defs import asset_keys, checks, silver
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS
from cryptolake_assets.defs.described import TITLES, family_tag
from cryptolake_assets.defs.graph import Graph, name_of
from cryptolake_assets.defs.partitions import hour_key, hour_of
from cryptolake_assets.defs.resources import RETRIES, LakeResource, StreamResource
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.windows import DAY, HOUR
from cryptolake_assets.quality.bar_checks import DEPENDENCIES, MEANINGS, PUBLISHED_COUNT
from cryptolake_assets.settings import Settings


def run_tags(layer: str, timeout: timedelta) -> dict[str, str]:
    """Return the tags of a job's runs: layer, maximum runtime and retries."""
    return {
        "layer": layer,
        "dagster/max_runtime": str(round(timeout.total_seconds())),
        "dagster/max_retries": "2",
        # A step retries its own failures; Dagster retries a run only if its process died.
        "dagster/retry_on_asset_or_op_failure": "false",
    }


# Checks that only the jobs run.


def _dependencies(family: Family) -> dg.AssetChecksDefinition:
    trades = FAMILY_KEYS[family].trades

    @dg.asset_check(  # type: ignore[arg-type]  # a check may yield more than its result
        asset=trades, name=DEPENDENCIES, blocking=True, description=MEANINGS[DEPENDENCIES]
    )
    def dependencies(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterator[Any]:
        from cryptolake_assets.platform.dependencies import check_dependencies

        outcome = check_dependencies(lake.settings.of_family(family))
        for result in checks.results(trades, [DEPENDENCIES], [outcome]):
            yield from checks.of_partitions(result, checks.planned(context), blocking=True)
            yield result

    return dependencies


def _published_count(family: Family, partitions: dg.PartitionsDefinition) -> dg.AssetChecksDefinition:
    bars = FAMILY_KEYS[family].bars

    def published_count(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from cryptolake_assets.transform.published_count import check_published

        outcome = check_published(lake.settings.of_family(family), hour_of(context.partition_key))
        (result,) = checks.results(bars, [PUBLISHED_COUNT], [outcome])
        return result

    with checks.preview_accepted():
        return dg.asset_check(
            asset=bars,
            name=PUBLISHED_COUNT,
            blocking=True,
            partitions_def=partitions,
            description=MEANINGS[PUBLISHED_COUNT],
        )(published_count)


# Jobs.


@dg.op(description="Reports the Bronze stream's state and its lag in Kafka records.")
def check_stream_health(context: dg.OpExecutionContext, stream: StreamResource) -> dict[str, Any]:
    status = stream.status()
    context.add_output_metadata({name: str(value) for name, value in status.items()})
    context.log.info(f"the Bronze stream is {status['state']}, lag {status['lag']}")
    return status


@dg.op(retry_policy=RETRIES, description="Ingests Kafka's records into Bronze if the stream is down.")
def catch_up_when_down(context: dg.OpExecutionContext, stream: StreamResource, status: dict[str, Any]) -> None:
    if stream.is_running():
        context.log.info("the stream runs: nothing to do")
        return
    trades = stream.trades()
    method = stream.catch_up(*trades)
    for stream_type in trades:
        context.log_event(
            dg.AssetObservation(
                asset_keys.of_table(stream_type.bronze),
                description="The stream was down: a run ingested Kafka's records.",
                metadata={"caught_up_by": method, "state": status["state"], "lag_before": status["lag"] or 0},
            )
        )


@dg.job(
    tags=run_tags("bronze", timedelta(minutes=30)),
    description="Checks the stream; catches up with Kafka if it is down.",
)
def ingest_realtime_to_bronze() -> None:
    catch_up_when_down(check_stream_health())


def _bronze_to_silver_1m(family: Family) -> Any:
    keys = FAMILY_KEYS[family]
    return dg.define_asset_job(
        name_of(family, "bronze_to_silver_1m"),
        selection=dg.AssetSelection.assets(keys.bars).without_checks()
        | dg.AssetSelection.checks(
            dg.AssetCheckKey(keys.trades, DEPENDENCIES),
            *silver.check_keys(family),
            dg.AssetCheckKey(keys.bars, PUBLISHED_COUNT),
        ),
        tags={**run_tags("silver", timedelta(minutes=30)), **family_tag(family)},
        description=(
            f"Checks the dependencies, refreshes an hour of {TITLES[family]} in Silver, and counts the published bars "
            "against Bronze. Run config: exchanges, symbols, window, engine."
        ),
    )


def _silver_to_gold_daily(family: Family) -> Any:
    return dg.define_asset_job(
        name_of(family, "silver_to_gold_daily"),
        selection=dg.AssetSelection.assets(FAMILY_KEYS[family].daily),
        tags={**run_tags("gold", timedelta(minutes=30)), **family_tag(family)},
        description=f"Refreshes a day of {TITLES[family]} in Gold.",
    )


# Schedules.


def last_closed(settings: Settings, period: timedelta, now: datetime) -> datetime:
    """Return the start of the last hour or day that has closed on the exchange's clock, after the watermark's grace.

    Use `now` if the exchange does not respond.
    """
    from cryptolake_assets.binance.exchange_clock import exchange_clock_ms

    clock_ms = exchange_clock_ms(settings)
    clock = now if clock_ms is None else datetime.fromtimestamp(clock_ms / 1000, UTC)
    watermark = clock - timedelta(milliseconds=settings.watermark_grace_ms)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (watermark - epoch) // period * period - period


def _request(
    partitions: dg.TimeWindowPartitionsDefinition, start: datetime, key: str
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    if partitions.has_partition_key(key):
        yield dg.RunRequest(partition_key=key)
    else:
        position = "before the first" if start < partitions.start else "after the last"
        yield dg.SkipReason(f"{key} is {position} partition")


@dg.schedule(
    job=ingest_realtime_to_bronze,
    cron_schedule="*/10 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    tags={"cadence": "ten minutes"},
    description="Every 10 minutes: catches up with Kafka while the stream is down.",
)
def ingest_realtime_to_bronze_schedule(stream: StreamResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
    # A run starts a process for several seconds; reading the stream's state does not need one.
    yield dg.SkipReason("the stream runs") if stream.is_running() else dg.RunRequest()


def _of_family(graph: Graph, family: Family) -> dg.Definitions:
    """Return a family's jobs, their schedules, and the checks that only they run."""
    hourly, daily = _bronze_to_silver_1m(family), _silver_to_gold_daily(family)
    settings = graph.settings.of_family(family)

    @dg.schedule(
        name=f"{hourly.name}_hourly",
        job=hourly,
        cron_schedule="5 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags={"cadence": "hour"},
        description="Hourly at minute 5: the last hour that closed on the exchange clock.",
    )
    def each_hour(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        hour = last_closed(settings, HOUR, context.scheduled_execution_time)
        yield from _request(graph.partitions.hourly, hour, hour_key(hour))

    @dg.schedule(
        name=f"{daily.name}_daily",
        job=daily,
        cron_schedule="15 0 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags={"cadence": "day"},
        description="Daily at 00:15 UTC: the last day that closed on the exchange clock.",
    )
    def each_day(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        day = last_closed(settings, DAY, context.scheduled_execution_time)
        yield from _request(graph.partitions.daily, day, f"{day:%Y-%m-%d}")

    return dg.Definitions(
        asset_checks=[_dependencies(family), _published_count(family, graph.partitions.hourly)],
        jobs=[hourly, daily],
        schedules=[each_hour, each_day],
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return the jobs, their schedules, and the checks that only they run."""
    return dg.Definitions.merge(
        dg.Definitions(jobs=[ingest_realtime_to_bronze], schedules=[ingest_realtime_to_bronze_schedule]),
        *(_of_family(graph, family) for family in graph.settings.families),
    )
