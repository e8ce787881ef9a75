"""Assets whose checks pass, warn, fail, crash or are skipped, as the test plans it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType

from cryptolake_assets.defs import checks
from cryptolake_assets.quality.bar_checks import BARS_AGREEING, BARS_COMPARED, OFFICIAL_KLINES
from cryptolake_assets.quality.candidate_checks import CheckOutcome

Event = dg.MaterializeResult[None] | dg.AssetCheckResult | dg.Output[None]

HOURS = dg.HourlyPartitionsDefinition(start_date="2024-07-01-00:00", timezone="UTC", fmt="%Y-%m-%d-%H:%M")
BARS, CLOCK = dg.AssetKey(["silver", "made_up_bars"]), dg.AssetKey(["bronze", "made_up_clock"])
BLOCKING, HEARTBEAT, NEVER = "no_nulls", "heartbeat", "drop_ratio"


@dataclass
class Plan:
    """The check results of the next run of `bars`, and how it ends."""

    passes: bool = True
    compared: int = 7
    agreeing: int = 7
    crashes: bool = False
    skips: bool = False
    waits_for: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)


plan = Plan()


@dg.asset(
    key=BARS,
    partitions_def=HOURS,
    output_required=False,
    check_specs=[*checks.specs(BARS, [BLOCKING], HOURS), *checks.specs(BARS, [OFFICIAL_KLINES], HOURS, blocking=False)],
)
def bars(
    context: dg.AssetExecutionContext,
) -> Iterator[Event]:
    plan.reached.set()
    if plan.waits_for is not None:
        assert plan.waits_for.wait(60)
    if plan.crashes:
        raise dg.Failure("the engine is gone", allow_retries=False)
    yield dg.MaterializeResult(asset_key=BARS)
    if plan.skips:
        for spec in context.assets_def.check_specs:
            yield dg.Output(None, output_name=spec.get_python_identifier())
        return
    yield from checks.results(BARS, [BLOCKING], [CheckOutcome(BLOCKING, plan.passes, "every column has a value")])
    agreement = CheckOutcome(
        OFFICIAL_KLINES,
        plan.agreeing == plan.compared,
        f"{plan.agreeing} of {plan.compared} complete bars equal the official klines",
        plan.compared - plan.agreeing,
        counts={BARS_COMPARED: plan.compared, BARS_AGREEING: plan.agreeing},
    )
    yield from checks.results(BARS, [OFFICIAL_KLINES], [agreement], dg.AssetCheckSeverity.WARN)


@dg.asset(key=CLOCK)
def clock() -> None:
    """Has checks without partitions."""


@dg.multi_asset_check(specs=[dg.AssetCheckSpec(name, asset=CLOCK) for name in (HEARTBEAT, NEVER)], can_subset=True)
def clock_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    for key in context.selected_asset_check_keys:
        yield dg.AssetCheckResult(asset_key=CLOCK, check_name=key.name, passed=True)


DEFINITIONS = dg.Definitions(assets=[bars, clock], asset_checks=[clock_checks])


def run(instance: dg.DagsterInstance, partition: str, **changes: object) -> dg.ExecuteInProcessResult:
    """Materialize an hour of the bars with these fields of `Plan`."""
    for name, value in vars(Plan(**changes)).items():  # type: ignore[arg-type]
        setattr(plan, name, value)
    return DEFINITIONS.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key=partition, asset_selection=[BARS], raise_on_error=False
    )


def report(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    name: str,
    partition: str | None,
    *,
    passed: bool = True,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> None:
    """Report an evaluation as sensors do, without a run.

    For a partition, report the event of a made-up run: without runs Dagster stores only one evaluation per partition.
    """
    (evaluation,) = checks.evaluations(key, [name], [CheckOutcome(name, passed, "as reported")], partition, severity)
    if partition is None:
        instance.report_runless_asset_event(evaluation)
    else:
        event = DagsterEvent(DagsterEventType.ASSET_CHECK_EVALUATION.value, "made_up", event_specific_data=evaluation)
        instance.report_dagster_event(event, run_id=str(uuid4()))
