"""The sensor that evaluates each market family's checks `heartbeat`, `frames_accepted`, `up_to_date` and `live_bars`.

It requests a restart of a dead or stalled Bronze stream, and sends an alert when the producer starts or stops rejecting
all frames of a symbol.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import pydantic

from cryptolake_assets.bronze.stream_health import HealthVerdict, ProgressHistory, StreamHealth, StreamSignals
from cryptolake_assets.defs import asset_keys, checks
from cryptolake_assets.defs.alerts import send_alert
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS
from cryptolake_assets.defs.graph import Graph, name_of
from cryptolake_assets.defs.partitions import GraphPartitions, hour_key
from cryptolake_assets.defs.resources import LakeResource, StreamResource
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.windows import hour_of
from cryptolake_assets.producer.status_file import rejecting_problem
from cryptolake_assets.quality.bar_checks import FRAMES_ACCEPTED, HEARTBEAT, LIVE_BARS, MEANINGS, UP_TO_DATE
from cryptolake_assets.quality.candidate_checks import CheckOutcome
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from cryptolake_assets.platform.notify import Alert
    from cryptolake_assets.transform.freshness import Freshness

INTERVAL_S = 30
# Interval for reporting unchanged outcomes again: hundreds of events a day in the event log instead of thousands.
REPORT_EVERY_S = 300.0

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


class RestartConfig(dg.Config):
    """Reason of a restart."""

    reason: str = pydantic.Field(default="manual", description="Reason, for the log and the observation.")


@dg.op(description="Restarts the Bronze stream, waits until it serves, and records an observation of its assets.")
def restart_stream(context: dg.OpExecutionContext, config: RestartConfig, stream: StreamResource) -> None:
    before = stream.status()
    began = time.monotonic()
    context.log.warning(f"restarting the Bronze stream: {config.reason}")
    stream.restart()
    after = stream.status()
    for stream_type in stream.trades():
        context.log_event(
            dg.AssetObservation(
                asset_keys.of_table(stream_type.bronze),
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


def _checks_now(family: Family) -> dg.AssetChecksDefinition:
    """Return the same checks of a family for manual runs."""
    keys = FAMILY_KEYS[family]
    specs = [
        dg.AssetCheckSpec(HEARTBEAT, asset=keys.trades, description=MEANINGS[HEARTBEAT]),
        dg.AssetCheckSpec(FRAMES_ACCEPTED, asset=keys.trades, description=MEANINGS[FRAMES_ACCEPTED]),
        dg.AssetCheckSpec(UP_TO_DATE, asset=keys.bars, description=MEANINGS[UP_TO_DATE]),
        dg.AssetCheckSpec(LIVE_BARS, asset=keys.bars, description=MEANINGS[LIVE_BARS]),
    ]

    @dg.multi_asset_check(name=name_of(family, "stream_health_now"), specs=specs, can_subset=True)
    def stream_health_now(context: dg.AssetCheckExecutionContext, lake: LakeResource, stream: StreamResource) -> Any:
        """Run the checks. Without progress history, a stalled stream looks like a paused one."""
        from cryptolake_assets.transform.freshness import check_up_to_date

        settings, now = lake.settings.of_family(family), time.time()
        verdict = ProgressHistory(well_at=now).judge(stream.signals()[family], now, settings.stream_stall_s)
        found = {
            HEARTBEAT: _heartbeat(verdict),
            FRAMES_ACCEPTED: _frames_accepted(settings),
            UP_TO_DATE: _up_to_date(check_up_to_date(settings)),
            LIVE_BARS: _live_bars(settings),
        }
        planned = checks.planned(context)
        for key in context.selected_asset_check_keys:
            outcome, severity = found[key.name]
            for result in checks.results(key.asset_key, [key.name], [outcome], severity):
                yield from checks.of_partitions(result, planned)
                yield result

    return stream_health_now


@dataclass(frozen=True)
class Memory:
    """What the sensor remembers of a family: the stream's progress history, the exchange's clock at the last
    evaluation (ms), the last reported outcome of each check, and the time of that report (epoch seconds)."""

    stream: str = ""
    clock_ms: int | None = None
    reported: tuple[str, ...] = ()
    reported_at: float = 0.0
    rejecting: bool = False  # whether the producer rejected all frames of a symbol at the last evaluation

    @classmethod
    def from_cursor(cls, cursor: str | None, family: Family) -> "Memory":
        """Return the family's part of the cursor, a JSON object by family."""
        try:
            values = json.loads(cursor or "")[family]
            return cls(**{**values, "reported": tuple(values["reported"])})
        except (ValueError, TypeError, KeyError):
            return cls()


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a family's checks: events to report, what to remember, and a summary."""

    events: Sequence[Event]
    memory: Memory
    verdict: HealthVerdict
    summary: str


def evaluate(
    context: dg.SensorEvaluationContext, graph: Graph, signals: Mapping[Family, StreamSignals], now: float
) -> dg.SensorResult | dg.SkipReason:
    """Evaluate the checks of each family with signals at `now` (epoch seconds); return events, a restart request if
    needed, and the cursor."""
    found = {
        family: _evaluate(graph, family, Memory.from_cursor(context.cursor, family), signals[family], now)
        for family in signals
    }
    cursor = json.dumps({family: asdict(one.memory) for family, one in found.items()})
    events = [event for one in found.values() for event in one.events]
    reasons = [one.verdict.reason for one in found.values() if one.verdict.restart]
    requests = [_restart("; ".join(dict.fromkeys(reasons)), now)] if reasons else []
    if not events and not requests:
        context.update_cursor(cursor)
        return dg.SkipReason("; ".join(f"{family}: {one.summary}" for family, one in found.items()))
    return dg.SensorResult(run_requests=requests, asset_events=events, cursor=cursor)


def _evaluate(graph: Graph, family: Family, memory: Memory, signals: StreamSignals, now: float) -> Evaluation:
    """Evaluate the checks of a family; send an alert if the producer starts or stops rejecting a symbol's frames."""
    from cryptolake_assets.transform.freshness import check_up_to_date

    settings, keys = graph.settings.of_family(family), FAMILY_KEYS[family]
    history = ProgressHistory.from_json(memory.stream, now)
    verdict = history.judge(signals, now, settings.stream_stall_s)
    heartbeat = _heartbeat(verdict)
    freshness = check_up_to_date(settings, memory.clock_ms)
    up_to_date, clock_ms = _up_to_date(freshness), freshness.clock_ms

    accepted = _frames_accepted(settings)
    rejecting = not accepted[0].passed
    if rejecting != memory.rejecting:
        send_alert(settings, _alert(keys.trades, accepted[0], now))

    live_bars = _live_bars(settings)
    results = (heartbeat, accepted, up_to_date, live_bars)
    verdicts = tuple(f"{outcome.name}:{outcome.passed}:{severity.value}" for outcome, severity in results)
    memory = replace(memory, stream=history.to_json(), clock_ms=clock_ms, rejecting=rejecting)
    events: list[Event] = []
    if verdicts != memory.reported or now - memory.reported_at >= REPORT_EVERY_S:
        memory = replace(memory, reported=verdicts, reported_at=now)
        events = [
            *_evaluations(keys.trades, heartbeat),
            *_evaluations(keys.trades, accepted),
            *_evaluations(keys.bars, up_to_date),
            *_evaluations(keys.bars, live_bars),
        ]
        if verdict.health is StreamHealth.GOOD:
            events += _heartbeat_event(keys.trades, graph.partitions, clock_ms, verdict)
    return Evaluation(events, memory, verdict, f"stream: {verdict.reason}; {up_to_date[0].description}")


def _heartbeat(verdict: HealthVerdict) -> tuple[CheckOutcome, dg.AssetCheckSeverity]:
    severity = dg.AssetCheckSeverity.ERROR if verdict.health is StreamHealth.FAILED else dg.AssetCheckSeverity.WARN
    return CheckOutcome(HEARTBEAT, verdict.health is StreamHealth.GOOD, verdict.reason), severity


def _frames_accepted(settings: Settings) -> tuple[CheckOutcome, dg.AssetCheckSeverity]:
    problem = rejecting_problem(settings, settings.venue.family)
    outcome = CheckOutcome(FRAMES_ACCEPTED, problem is None, problem or "frames of every symbol are accepted")
    return outcome, dg.AssetCheckSeverity.ERROR


def _alert(trades: dg.AssetKey, accepted: CheckOutcome, now: float) -> "Alert":
    from cryptolake_assets.platform.notify import Alert, AlertKind

    return Alert(
        AlertKind.RECOVERED if accepted.passed else AlertKind.FAILED,
        job="producer",
        assets=(trades.to_user_string(),),
        cause=accepted.description,
        failed_checks=() if accepted.passed else (FRAMES_ACCEPTED,),
        at=datetime.fromtimestamp(now, UTC),
    )


def _up_to_date(freshness: "Freshness") -> tuple[CheckOutcome, dg.AssetCheckSeverity]:
    severity = dg.AssetCheckSeverity.ERROR if freshness.is_error else dg.AssetCheckSeverity.WARN
    return freshness.outcome, severity


def _live_bars(settings: Settings) -> tuple[CheckOutcome, dg.AssetCheckSeverity]:
    from cryptolake_assets.live.settled_counts import check_live_bars

    return check_live_bars(settings), dg.AssetCheckSeverity.WARN


def _evaluations(
    asset: dg.AssetKey, result: tuple[CheckOutcome, dg.AssetCheckSeverity]
) -> list[dg.AssetCheckEvaluation]:
    outcome, severity = result
    return list(checks.evaluations(asset, [outcome.name], [outcome], None, severity))


def _heartbeat_event(
    trades: dg.AssetKey, partitions: GraphPartitions, clock_ms: int | None, verdict: HealthVerdict
) -> list[dg.AssetMaterialization]:
    """Return a materialization without rows, so that Bronze stays fresh while an idle stream adds no rows."""
    moment = datetime.now(UTC) if clock_ms is None else datetime.fromtimestamp(clock_ms / 1000, UTC)
    hour = hour_of(moment)
    if not partitions.is_loaded(hour):
        return []
    return [
        dg.AssetMaterialization(
            trades, partition=hour_key(hour), metadata={"rows_added": 0, "heartbeat": verdict.reason}
        )
    ]


def _restart(reason: str, now: float) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"restart/{now:.0f}",
        run_config=dg.RunConfig(ops={restart_stream.name: RestartConfig(reason=reason)}),
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return the sensor, the checks for manual runs, and the job that restarts the stream."""

    @dg.sensor(
        name="stream_health",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        job=restart_bronze_stream,
        description=(
            "Reports heartbeat, rejected frames and the lag of bars of each market family; restarts a dead or stalled "
            "stream."
        ),
    )
    def stream_health(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # A resource injected by Dagster would open Dagster's instance, which costs more than the evaluation.
        stream = StreamResource(settings=graph.settings)
        return evaluate(context, graph, stream.signals(), time.time())

    return dg.Definitions(
        asset_checks=[_checks_now(family) for family in graph.settings.families],
        jobs=[restart_bronze_stream],
        sensors=[stream_health],
    )
