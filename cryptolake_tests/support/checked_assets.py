"""Assets whose checks end in every way there is; what they find is up to the test."""

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
class Wanted:
    """What the next run of `bars` finds, and how it ends."""

    passes: bool = True
    compared: int = 7
    agreeing: int = 7
    breaks_off: bool = False
    skips: bool = False
    holds: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)


wanted = Wanted()


@dg.asset(
    key=BARS,
    partitions_def=HOURS,
    output_required=False,
    check_specs=[*checks.specs(BARS, [BLOCKING], HOURS), *checks.specs(BARS, [OFFICIAL_KLINES], HOURS, blocking=False)],
)
def bars(
    context: dg.AssetExecutionContext,
) -> Iterator[Event]:
    wanted.reached.set()
    if wanted.holds is not None:
        assert wanted.holds.wait(60)
    if wanted.breaks_off:
        raise dg.Failure("the engine is gone", allow_retries=False)
    yield dg.MaterializeResult(asset_key=BARS)
    if wanted.skips:
        for spec in context.assets_def.check_specs:
            yield dg.Output(None, output_name=spec.get_python_identifier())
        return
    yield from checks.results(BARS, [BLOCKING], [CheckOutcome(BLOCKING, wanted.passes, "every column has a value")])
    agreement = CheckOutcome(
        OFFICIAL_KLINES,
        wanted.agreeing == wanted.compared,
        f"{wanted.agreeing} of {wanted.compared} complete bars equal the official klines",
        wanted.compared - wanted.agreeing,
        counts={BARS_COMPARED: wanted.compared, BARS_AGREEING: wanted.agreeing},
    )
    yield from checks.results(BARS, [OFFICIAL_KLINES], [agreement], dg.AssetCheckSeverity.WARN)


@dg.asset(key=CLOCK)
def clock() -> None:
    """Has checks without partitions."""


@dg.multi_asset_check(specs=[dg.AssetCheckSpec(name, asset=CLOCK) for name in (HEARTBEAT, NEVER)], can_subset=True)
def of_clock(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    for key in context.selected_asset_check_keys:
        yield dg.AssetCheckResult(asset_key=CLOCK, check_name=key.name, passed=True)


DEFINITIONS = dg.Definitions(assets=[bars, clock], asset_checks=[of_clock])


def run(instance: dg.DagsterInstance, partition: str, **changes: object) -> dg.ExecuteInProcessResult:
    """Materialize an hour of the bars; its checks find what `changes` of `Wanted` say."""
    for name, value in vars(Wanted(**changes)).items():  # type: ignore[arg-type]
        setattr(wanted, name, value)
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
    """An evaluation as sensors report it, without a run; of a partition as one by a run, of which the event is all that
    there is: without runs Dagster takes one evaluation of a partition only."""
    (evaluation,) = checks.evaluations(key, [name], [CheckOutcome(name, passed, "as reported")], partition, severity)
    if partition is None:
        instance.report_runless_asset_event(evaluation)
    else:
        event = DagsterEvent(DagsterEventType.ASSET_CHECK_EVALUATION.value, "made_up", event_specific_data=evaluation)
        instance.report_dagster_event(event, run_id=str(uuid4()))
