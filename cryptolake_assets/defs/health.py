"""The sensor that evaluates the stream's checks `heartbeat`, `frames_accepted` and `up_to_date`.

It requests a restart of a dead or stalled Bronze stream, and sends an alert when the producer starts or stops rejecting
all frames of a symbol.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import pydantic

from cryptolake_assets.bronze.stream_health import HealthVerdict, ProgressHistory, StreamHealth, StreamSignals
from cryptolake_assets.defs import asset_keys, checks
from cryptolake_assets.defs.alerts import send_alert
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import GraphPartitions, hour_key
from cryptolake_assets.defs.resources import LakeResource, StreamResource
from cryptolake_assets.model.windows import hour_of
from cryptolake_assets.producer.status_file import rejecting_problem
from cryptolake_assets.quality.bar_checks import FRAMES_ACCEPTED, HEARTBEAT, MEANINGS, UP_TO_DATE
from cryptolake_assets.quality.candidate_checks import CheckOutcome
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from cryptolake_assets.platform.notify import Alert
    from cryptolake_assets.transform.freshness import Freshness

INTERVAL_S = 30
# Interval for reporting unchanged outcomes again: hundreds of events a day in the event log instead of thousands.
REPORT_EVERY_S = 300.0

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation

HEALTH_CHECKS = [
    dg.AssetCheckSpec(HEARTBEAT, asset=asset_keys.BRONZE, description=MEANINGS[HEARTBEAT]),
    dg.AssetCheckSpec(FRAMES_ACCEPTED, asset=asset_keys.BRONZE, description=MEANINGS[FRAMES_ACCEPTED]),
    dg.AssetCheckSpec(UP_TO_DATE, asset=asset_keys.SILVER, description=MEANINGS[UP_TO_DATE]),
]


class RestartConfig(dg.Config):
    """Reason of a restart."""

    reason: str = pydantic.Field(default="manual", description="Reason, for the log and the observation.")


@dg.op(description="Restarts the Bronze stream, waits until it serves, and records an observation of its asset.")
def restart_stream(context: dg.OpExecutionContext, config: RestartConfig, stream: StreamResource) -> None:
    before = stream.status()
    began = time.monotonic()
    context.log.warning(f"restarting the Bronze stream: {config.reason}")
    stream.restart()
    after = stream.status()
    context.log_event(
        dg.AssetObservation(
            asset_keys.BRONZE,
            description=f"The Bronze stream was restarted: {config.reason}",
            metadata={
                "reason": config.reason,
                "state_before": before["state"],
                "pid_before": str(before["pid"]),
                "pid_after": str(after["pid"]),
                "lag_before": str(before["lag"]),
                "seconds": round(time.monotonic() - began, 1),
            },
        )
    )


@dg.job(
    tags={"layer": "bronze", "dagster/max_runtime": "900"},
    description="Restarts the Bronze stream; starts it if it does not run.",
)
def restart_bronze_stream() -> None:
    restart_stream()


@dg.multi_asset_check(name="stream_health_now", specs=HEALTH_CHECKS, can_subset=True)
def stream_health_now(context: dg.AssetCheckExecutionContext, lake: LakeResource, stream: StreamResource) -> Any:
    """Run the same checks manually. Without progress history, a stalled stream looks like a paused one."""
    from cryptolake_assets.transform.freshness import check_up_to_date

    now = time.time()
    verdict = ProgressHistory(well_at=now).judge(stream.signals(), now, lake.settings.stream_stall_s)
    found = {
        HEARTBEAT: _heartbeat(verdict),
        FRAMES_ACCEPTED: _frames_accepted(lake.settings),
        UP_TO_DATE: _up_to_date(check_up_to_date(lake.settings)),
    }
    planned = checks.planned(context)
    for key in context.selected_asset_check_keys:
        outcome, severity = found[key.name]
        for result in checks.results(key.asset_key, [key.name], [outcome], severity):
            yield from checks.of_partitions(result, planned)
            yield result


@dataclass(frozen=True)
class Memory:
    """The sensor's cursor: the stream's progress history, the exchange's clock at the last evaluation (ms), the last
    reported outcome of each check, and the time of that report (epoch seconds)."""

    stream: str = ""
    clock_ms: int | None = None
    reported: tuple[str, ...] = ()
    reported_at: float = 0.0
    rejecting: bool = False  # whether the producer rejected all frames of a symbol at the last evaluation

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Memory":
        try:
            values = json.loads(cursor or "")
            return cls(**{**values, "reported": tuple(values["reported"])})
        except (ValueError, TypeError, KeyError):
            return cls()


def evaluate(
    context: dg.SensorEvaluationContext, graph: Graph, signals: StreamSignals, now: float
) -> dg.SensorResult | dg.SkipReason:
    """Evaluate the checks at `now` (epoch seconds); return events, a restart request if needed, and the cursor."""
    from cryptolake_assets.transform.freshness import check_up_to_date

    settings = graph.settings
    memory = Memory.from_cursor(context.cursor)
    history = ProgressHistory.from_json(memory.stream, now)
    verdict = history.judge(signals, now, settings.stream_stall_s)
    heartbeat = _heartbeat(verdict)
    freshness = check_up_to_date(settings, memory.clock_ms)
    up_to_date, clock_ms = _up_to_date(freshness), freshness.clock_ms

    accepted = _frames_accepted(settings)
    rejecting = not accepted[0].passed
    if rejecting != memory.rejecting:
        send_alert(settings, _alert(accepted[0], now))

    results = (heartbeat, accepted, up_to_date)
    verdicts = tuple(f"{outcome.name}:{outcome.passed}:{severity.value}" for outcome, severity in results)
    memory = replace(memory, stream=history.to_json(), clock_ms=clock_ms, rejecting=rejecting)
    events: list[Event] = []
    if verdicts != memory.reported or now - memory.reported_at >= REPORT_EVERY_S:
        memory = replace(memory, reported=verdicts, reported_at=now)
        events = [
            *_evaluations(asset_keys.BRONZE, heartbeat),
            *_evaluations(asset_keys.BRONZE, accepted),
            *_evaluations(asset_keys.SILVER, up_to_date),
        ]
        if verdict.health is StreamHealth.GOOD:
            events += _heartbeat_event(graph.partitions, clock_ms, verdict)
    cursor = json.dumps(asdict(memory))
    requests = [_restart(verdict, now)] if verdict.restart else []
    if not events and not requests:
        context.update_cursor(cursor)
        return dg.SkipReason(f"stream: {verdict.reason}; {up_to_date[0].description}")
    return dg.SensorResult(run_requests=requests, asset_events=events, cursor=cursor)


def _heartbeat(verdict: HealthVerdict) -> tuple[CheckOutcome, dg.AssetCheckSeverity]:
    severity = dg.AssetCheckSeverity.ERROR if verdict.health is StreamHealth.FAILED else dg.AssetCheckSeverity.WARN
    return CheckOutcome(HEARTBEAT, verdict.health is StreamHealth.GOOD, verdict.reason), severity


def _frames_accepted(settings: Settings) -> tuple[CheckOutcome, dg.AssetCheckSeverity]:
    problem = rejecting_problem(settings)
    outcome = CheckOutcome(FRAMES_ACCEPTED, problem is None, problem or "frames of every symbol are accepted")
    return outcome, dg.AssetCheckSeverity.ERROR


def _alert(accepted: CheckOutcome, now: float) -> "Alert":
    from cryptolake_assets.platform.notify import Alert, AlertKind

    return Alert(
        AlertKind.RECOVERED if accepted.passed else AlertKind.FAILED,
        job="producer",
        assets=(asset_keys.BRONZE.to_user_string(),),
        cause=accepted.description,
        failed_checks=() if accepted.passed else (FRAMES_ACCEPTED,),
        at=datetime.fromtimestamp(now, UTC),
    )


def _up_to_date(freshness: "Freshness") -> tuple[CheckOutcome, dg.AssetCheckSeverity]:
    severity = dg.AssetCheckSeverity.ERROR if freshness.is_error else dg.AssetCheckSeverity.WARN
    return freshness.outcome, severity


def _evaluations(
    asset: dg.AssetKey, result: tuple[CheckOutcome, dg.AssetCheckSeverity]
) -> list[dg.AssetCheckEvaluation]:
    outcome, severity = result
    return list(checks.evaluations(asset, [outcome.name], [outcome], None, severity))


def _heartbeat_event(
    partitions: GraphPartitions, clock_ms: int | None, verdict: HealthVerdict
) -> list[dg.AssetMaterialization]:
    """Return a materialization without rows, so that Bronze stays fresh while an idle stream adds no rows."""
    moment = datetime.now(UTC) if clock_ms is None else datetime.fromtimestamp(clock_ms / 1000, UTC)
    hour = hour_of(moment)
    if not partitions.is_loaded(hour):
        return []
    return [
        dg.AssetMaterialization(
            asset_keys.BRONZE, partition=hour_key(hour), metadata={"rows_added": 0, "heartbeat": verdict.reason}
        )
    ]


def _restart(verdict: HealthVerdict, now: float) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"restart/{now:.0f}",
        run_config=dg.RunConfig(ops={restart_stream.name: RestartConfig(reason=verdict.reason)}),
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return the sensor, the checks for manual runs, and the job that restarts the stream."""

    @dg.sensor(
        name="stream_health",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        job=restart_bronze_stream,
        description="Reports heartbeat, rejected frames and the lag of bars; restarts a dead or stalled stream.",
    )
    def stream_health(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # A resource injected by Dagster would open Dagster's instance, which costs more than the evaluation.
        stream = StreamResource(settings=graph.settings)
        return evaluate(context, graph, stream.signals(), time.time())

    return dg.Definitions(asset_checks=[stream_health_now], jobs=[restart_bronze_stream], sensors=[stream_health])
