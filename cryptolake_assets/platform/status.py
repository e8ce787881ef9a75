"""Status of each part (state, pid, port, lag, log), and the platform's problems."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptolake_assets.bronze.offsets import trade_progress
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.kafka.topics import access_problem
from cryptolake_assets.lake.migrations import lake_schema
from cryptolake_assets.platform import graphql, probes
from cryptolake_assets.platform import parts as catalogue
from cryptolake_assets.platform.jars import JarStore, needed_jars
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.platform.lifecycle import MIN_FREE_BYTES
from cryptolake_assets.platform.parts import (
    BRONZE,
    DAGSTER_WEBSERVER,
    EXCHANGE,
    KAFKA,
    PRODUCER,
    SPARK,
    Part,
    local_parts,
)
from cryptolake_assets.platform.supervisor import ProcessInfo, Supervisor
from cryptolake_assets.producer.status_file import (
    MarketState,
    ProducerStatus,
    read_status,
    rejecting_problem,
    rejecting_problems,
    waiting_problem,
)
from cryptolake_assets.settings import Settings

RUNNING = "running"
EXTERNAL = "external"
STOPPED = "stopped"
UNSEEN = "unseen"
UNHEALTHY = "unhealthy"
RESTART_PAUSE_S = 120  # a part that starts within this time after its end is restarting
_STATES = {
    "STOPPED": STOPPED,
    "BACKOFF": "restarting",
    "STOPPING": "stopping",
    "FATAL": "failed",
    "EXITED": "failed",
    "UNKNOWN": "failed",
}


@dataclass(frozen=True)
class PartStatus:
    """One row of `cryptolake status`."""

    name: str
    # running, starting, unhealthy (alive, but does not respond), restarting, failed, stopping, stopped, external (under
    # another supervisor), unseen (other parts are external, and this one does not respond).
    state: str
    pid: int | None
    port: int | None
    uptime_s: float | None
    lag: int | None  # bronze: trades in Kafka that are not in the tables; producer: queued frames
    detail: str
    log: str


def status(settings: Settings) -> list[PartStatus]:
    """Return the status of every part of these settings, in order; external brokers and Spark as `external`.

    If Dagster is on another machine and no supervisor of this home runs, another supervisor runs the parts: those that
    respond are `external`.
    """
    infos = Supervisor(settings).processes()
    local = {part.name for part in local_parts(settings)}
    rows = [part for part in catalogue.PARTS if part.name in local or part.name in (KAFKA, SPARK)]
    elsewhere = bool(settings.dagster_url) and not infos

    def part_status(part: Part) -> PartStatus:
        if part.name not in local:
            return _external_status(part, settings)
        return _local_status(part, settings, infos.get(part.name), elsewhere=elsewhere)

    with ThreadPoolExecutor(len(rows)) as pool:
        found = list(pool.map(part_status, rows))
    if elsewhere and any(row.state == EXTERNAL and row.name in local for row in found):
        return [replace(row, state=UNSEEN) if row.state == STOPPED else row for row in found]
    return found


def problems(settings: Settings) -> list[str]:
    """Return the platform's problems, each a line with the next step; empty if there are none."""
    found = [*_machine_problems(settings)]
    if (schema := lake_schema(settings)) and schema.pending:
        found.append(f"lake: {schema}. Run `cryptolake bootstrap`.")
    rows = status(settings)
    local = {part.name for part in local_parts(settings)}
    if all(row.state == STOPPED for row in rows if row.name in local):
        return [*found, "platform: no part is running. Start it with `cryptolake up`."]
    for row in rows:
        if row.state not in (RUNNING, EXTERNAL, UNSEEN):
            found.append(
                f"{row.name}: {row.state}{f' ({row.detail})' if row.detail else ''}. "
                f"See `cryptolake logs {row.name}` ({row.log}); start it with `cryptolake up`."
            )
        elif row.state == EXTERNAL and row.detail.endswith("unreachable"):
            found.append(f"{row.name}: {row.detail}. Check that it runs, and check its address and security settings.")
    found += producer_problems(settings)
    if any(row.name == DAGSTER_WEBSERVER and row.state == RUNNING for row in rows):
        try:
            found += [f"dagster: definitions failed to load: {error}" for error in graphql.location_errors(settings)]
        except CryptolakeError as error:
            found.append(str(error))
    return found


def producer_problems(settings: Settings) -> list[str]:
    """Return the problems that the producer reports: markets that it cannot follow, and rejected frames."""
    found = []
    if waiting := waiting_problem(settings):
        found.append(f"producer: {waiting}. Check the exchange and the symbols; see `cryptolake logs producer`.")
    for market, rejecting in rejecting_problems(settings).items():
        table = settings.of_market(market).tables.rejected.full_name
        found.append(
            f"producer: {rejecting}. Minutes since then are incomplete; "
            f'`cryptolake sql "SELECT reason, count(*) FROM {table} GROUP BY ALL"` shows the reasons.'
        )
    return found


def _machine_problems(settings: Settings) -> list[str]:
    found = []
    if any(part.needs_java for part in local_parts(settings)):
        try:
            find_java()
        except CryptolakeError as error:
            found.append(str(error))
        if not JarStore(settings.lib_dir, needed_jars(settings)).is_checked():
            found.append("jars: pinned jars are missing or changed. Run `make setup`.")
    if settings.home.exists() and (free := shutil.disk_usage(settings.home).free) < MIN_FREE_BYTES:
        found.append(f"home: only {free / 1e6:.0f} MB are free on the disk of {settings.home}. Free some space.")
    return found


def _local_status(part: Part, settings: Settings, info: ProcessInfo | None, *, elsewhere: bool) -> PartStatus:
    """Return the status of a local part. With `elsewhere`, an unknown part may run under another supervisor."""
    if info is not None:
        state = _state(part, settings, info)
    else:
        state = EXTERNAL if elsewhere and part.is_ready(settings, 0.0) else STOPPED
    lag: int | None = None
    detail = ""
    if state in (RUNNING, EXTERNAL):
        lag, detail = _progress(part, settings)
    elif info is not None and state in ("failed", "restarting"):
        detail = info.spawn_error or f"exit status {info.exit_status}"
    return PartStatus(
        name=part.name,
        state=state,
        pid=info.pid if info else None,
        port=part.port(settings),
        uptime_s=info.now_s - info.started_s if info and info.pid else None,
        lag=lag,
        detail=detail,
        log="" if state == EXTERNAL else str(part.log_file(settings)),
    )


def process_state(info: ProcessInfo) -> str:
    """Return the supervisor's state of a part as a `PartStatus.state`, without a health probe of the process."""
    return RUNNING if info.alive else _STATES.get(info.state, "failed")


def _state(part: Part, settings: Settings, info: ProcessInfo) -> str:
    if not info.alive:
        return process_state(info)
    if part.is_ready(settings, info.started_s):
        return RUNNING
    if 0 < info.started_s - info.stopped_s < RESTART_PAUSE_S:
        return "restarting"
    return "starting" if info.now_s - info.started_s < part.start_timeout_s else UNHEALTHY


def _external_status(part: Part, settings: Settings) -> PartStatus:
    if part.name == KAFKA:
        problem = access_problem(settings)
        detail = f"{settings.bootstrap_servers} {'reachable' if problem is None else f'({problem}) unreachable'}"
    else:
        address = settings.spark_connect_url.removeprefix("sc://")
        host, _, port = address.split("/")[0].rpartition(":")
        detail = f"{address} {'reachable' if port.isdigit() and probes.port_open(int(port), host) else 'unreachable'}"
    return PartStatus(part.name, EXTERNAL, None, None, None, None, detail, "")


def _progress(part: Part, settings: Settings) -> tuple[int | None, str]:
    """Return lag and a short progress text of a running part."""
    if part.name == EXCHANGE:
        return None, _exchange_progress(settings)
    if part.name == PRODUCER:
        report = read_status(settings)
        return (None, "") if report is None else (report.queued_frames, _producer_progress(settings, report))
    if part.name == BRONZE:
        progress = trade_progress(settings)
        lags = [trades.lag for trades in progress if trades.lag is not None]
        return sum(lags) if len(lags) == len(progress) else None, "; ".join(map(str, progress))
    return None, ""


def _producer_progress(settings: Settings, report: ProducerStatus) -> str:
    counts = f"{report.frames} frames, {report.events_acked} events acked, {report.rejected} rejected"
    markets = [
        f"{name}: {of_market.symbols} symbols, {of_market.frames} frames"
        if of_market.state is MarketState.STREAMING
        else f"{name}: {of_market.state}".replace("_", " ")
        for name, of_market in report.markets.items()
    ]
    text = f"{report.state}, {counts} ({'; '.join(markets)})".replace("_", " ")
    if rejecting := rejecting_problem(settings):
        text += f", rejecting: {rejecting}"
    stale = [f"{symbol} ({name})" for name, of_market in report.markets.items() for symbol in of_market.stale_symbols]
    if stale:
        text += f", stale: {', '.join(stale[:5])}{' …' if len(stale) > 5 else ''}"
    return text


def _exchange_progress(settings: Settings) -> str:
    report = probes.http_json(f"http://{settings.replay_address}/replay/status")
    if not report:
        return "no response"
    clock = datetime.fromtimestamp(report["clock_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{report['state']}, {report['frames_passed']} of {report['frames_total']} frames, clock {clock}"
