"""The parts of the platform: each one's command, ports, health check and dependencies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from cryptolake_assets.bronze.offsets import report_path
from cryptolake_assets.captures.tracked_symbols import default_end_date, default_start_date, extra_streams_in_use
from cryptolake_assets.errors import ArgumentError, CaptureError
from cryptolake_assets.kafka.topics import ensure_topics
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.stores import postgres_url
from cryptolake_assets.model.nearest import did_you_mean
from cryptolake_assets.platform import code_servers, kafka, probes
from cryptolake_assets.platform import spark_server as spark
from cryptolake_assets.platform.code_servers import CodeLocation
from cryptolake_assets.settings import PORT_FIELDS, PROJECT_ROOT, Settings, Source, env_name
from cryptolake_assets.settings.api import ApiSettings
from cryptolake_assets.settings.exchange import ExchangeSettings
from cryptolake_assets.settings.extra_streams import NO_STREAMS
from cryptolake_assets.settings.graph import GraphSettings
from cryptolake_assets.settings.kafka import KafkaSettings
from cryptolake_assets.settings.producer import ProducerSettings

INSTANCE_VARIABLE = "CRYPTOLAKE_INSTANCE"  # holds the home in every process of a platform; `down` finds them by it

# Settings that only Spark's own process uses: a change affects no other part.
SERVER_SETTINGS = ("spark_memory_mb", "spark_master", "spark_connect_host", "spark_shuffle_partitions")

GRAPH_SETTINGS = frozenset(GraphSettings.model_fields)  # only the graph uses them: a change must not stop the stream

API_SETTINGS = frozenset(ApiSettings.model_fields)  # only API and dashboard use them: a change restarts no other part

# Settings of the tracked symbols and of gap repair, used by the producer and by the parts that check its data.
PRODUCER_SETTINGS = frozenset({"symbols", *ProducerSettings.model_fields, *ExchangeSettings.model_fields}) - {
    *("market", "markets"),  # every part has its tables and topics by the tracked markets
}

KAFKA_SETTINGS = frozenset(KafkaSettings.model_fields)  # include secrets: only for parts that are Kafka clients

MALLOC_ARENAS = "2"  # by default glibc keeps up to eight heaps per core, which many threads fill and do not return

KAFKA = "kafka"
SPARK = "spark"
EXCHANGE = "exchange"
PRODUCER = "producer"
BRONZE = "bronze"
DAGSTER_WEBSERVER = "dagster-webserver"
DAGSTER_DAEMON = "dagster-daemon"
API = "api"
DASHBOARD = "dashboard"
TOPICS = "topics"
TABLES = "tables"


@dataclass(frozen=True)
class Part:
    """One supervised process. Fields that depend on the settings are functions of them."""

    name: str
    command: Callable[[Settings], tuple[str, ...]]
    is_ready: Callable[[Settings, float], bool]  # health check, given the process's start time in epoch seconds
    needs: tuple[str, ...] = ()  # parts and steps that must be ready first
    restarts_with: tuple[str, ...] = ()  # parts whose deliberate restart interrupts this one and restarts it too
    port_fields: tuple[str, ...] = ()  # fields of `Settings` with its ports, the user-facing one first
    environment: Callable[[Settings], dict[str, str]] = lambda _: {}
    ignores: Callable[[str], bool] = lambda _: False  # True for settings (field names) whose change needs no restart
    files: Callable[[Settings], dict[Path, str]] = lambda _: {}  # generated configuration; a change restarts the part
    watched_files: Callable[[Settings], dict[Path, str]] = lambda _: {}  # the part reloads these itself
    prepare: Callable[[Settings], None] = lambda _: None
    is_local: Callable[[Settings], bool] = lambda _: True  # whether this machine runs the part
    needs_java: bool = False
    start_timeout_s: float = 120
    stop_timeout_s: int = 15
    start_space_bytes: int = 0  # it waits at its start until the disk of the home has as many free bytes

    def log_file(self, settings: Settings) -> Path:
        return settings.log_dir / f"{self.name}.log"

    def port(self, settings: Settings) -> int | None:
        return int(getattr(settings, self.port_fields[0])) if self.port_fields else None

    def spec(self, settings: Settings) -> dict[str, object]:
        """Return the spec from which `launch` starts this part. An unchanged spec needs no restart."""
        passed = {
            env_name(name) for name in Settings.model_fields if not (name in SERVER_SETTINGS or self.ignores(name))
        }
        space = {"part": self.name, "directory": str(settings.home), "free_bytes": self.start_space_bytes}
        return {
            "command": list(self.command(settings)),
            "directory": str(PROJECT_ROOT),
            **({"start_space": space} if self.start_space_bytes else {}),
            "environment": {
                **{name: value for name, value in settings.environment().items() if name in passed},
                "PYTHONUNBUFFERED": "1",
                "MALLOC_ARENA_MAX": MALLOC_ARENAS,
                **self.environment(settings),
                INSTANCE_VARIABLE: str(settings.home),
            },
        }


@dataclass(frozen=True)
class Step:
    """A one-time action between parts, run in the process that starts the platform."""

    name: str
    title: str
    run: Callable[[Settings], object]
    needs: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()  # parts that make this step necessary


def _module(name: str, *arguments: str) -> Callable[[Settings], tuple[str, ...]]:
    return lambda _: (sys.executable, "-m", name, *arguments)


def _workspace_file(settings: Settings) -> Path:
    return settings.dagster_home / "workspace.yaml"


def _dagster_environment(settings: Settings) -> dict[str, str]:
    return {"DAGSTER_HOME": str(settings.dagster_home)}


def _code_server_environment(settings: Settings) -> dict[str, str]:
    """Add a replay's partition dates, so that code servers load the definitions without reading the capture.

    A capture with other days then restarts them. The replay exchange reports capture errors.
    """
    environment = _dagster_environment(settings)
    if settings.source is Source.REPLAY:
        with suppress(CaptureError):
            environment[env_name("start_date")] = default_start_date(settings).isoformat()
            environment[env_name("end_date")] = str(default_end_date(settings))
            environment |= _extra_streams(settings)
    return environment


def dagster_files(settings: Settings) -> dict[Path, str]:
    """Return the required files of DAGSTER_HOME by path."""
    text = (PROJECT_ROOT / "dagster.yaml").read_text(encoding="utf-8")
    return {
        settings.dagster_home / "dagster.yaml": text + _storage_text(settings),
        _workspace_file(settings): code_servers.workspace_text(settings),
    }


def _storage_text(settings: Settings) -> str:
    """Return the storage section of dagster.yaml."""
    url = settings.dagster_database.get_secret_value()
    sqlite = {
        "event_log_storage": {
            "module": "cryptolake_assets.defs.instance.check_states",
            "class": "CheckStatesEventLogStorage",
            "config": {"base_dir": str(settings.dagster_home / "history" / "runs")},
        }
    }
    storage = {"storage": {"postgres": {"postgres_url": postgres_url(url)}}} if url else sqlite
    return f"\n{yaml.safe_dump(storage)}"


def _symbols_file(settings: Settings) -> Path:
    return settings.symbols_file or settings.run_dir / "symbols.txt"


def _producer_files(settings: Settings) -> dict[Path, str]:
    """Return the generated symbols file of all markets; none if the user has one."""
    return {} if settings.symbols_file else {_symbols_file(settings): "".join(f"{one}\n" for one in settings.symbols)}


def _extra_streams(settings: Settings) -> dict[str, str]:
    """Pass the resolved stream names, so that a part does not depend on the replay settings.

    The replay exchange reports capture errors.
    """
    try:
        names = ",".join(dict.fromkeys(stream.option for stream in extra_streams_in_use(settings)))
    except CaptureError:
        names = ""
    return {env_name("extra_streams"): names or NO_STREAMS}


def _code_server(location: CodeLocation) -> Part:
    return Part(
        name=location.part,
        command=lambda settings: code_servers.command(settings, location),
        is_ready=lambda settings, _: code_servers.is_ready(settings, location),
        environment=_code_server_environment,
        ignores=lambda name: name in API_SETTINGS,
        files=dagster_files,
        prepare=lambda settings: code_servers.prepare(settings, location),
        start_timeout_s=180,
        stop_timeout_s=20,
    )


CODE_SERVERS = tuple(_code_server(location) for location in code_servers.locations())

PARTS: tuple[Part, ...] = (
    Part(
        name=KAFKA,
        command=kafka.command,
        is_ready=lambda settings, _: probes.port_open(settings.kafka_port),
        port_fields=("kafka_port", "kafka_controller_port"),
        ignores=lambda _: True,
        files=kafka.files,
        prepare=kafka.format_storage,
        is_local=lambda settings: not settings.kafka_bootstrap_servers,
        needs_java=True,
        stop_timeout_s=30,
        start_space_bytes=kafka.START_SPACE_BYTES,
    ),
    Part(
        name=SPARK,
        command=spark.command,
        is_ready=lambda settings, _: probes.port_open(settings.spark_connect_port),
        port_fields=("spark_connect_port", "spark_ui_port"),
        environment=spark.environment,
        ignores=lambda _: True,
        files=spark.files,
        prepare=spark.prepare,
        is_local=lambda settings: not settings.spark_remote,
        needs_java=True,
        start_timeout_s=180,
        stop_timeout_s=30,
    ),
    Part(
        name=EXCHANGE,
        command=_module("cryptolake_assets.replay.server"),
        is_ready=lambda settings, _: probes.http_ok(f"http://{settings.replay_address}/replay/status"),
        port_fields=("exchange_port",),
        ignores=lambda name: name in GRAPH_SETTINGS | API_SETTINGS | PRODUCER_SETTINGS | KAFKA_SETTINGS,
        is_local=lambda settings: settings.source is Source.REPLAY,
    ),
    Part(
        name=PRODUCER,
        command=_module("cryptolake_assets.producer.process"),
        is_ready=lambda settings, started: probes.reporting(settings.run_dir / "producer.json", started),
        needs=(TOPICS, TABLES, EXCHANGE),
        environment=lambda settings: {env_name("symbols_file"): str(_symbols_file(settings))},
        ignores=lambda name: name in GRAPH_SETTINGS | API_SETTINGS | {"symbols", "replay_faults"},
        watched_files=_producer_files,
    ),
    Part(
        name=BRONZE,
        command=_module("cryptolake_assets.bronze.stream"),
        is_ready=lambda settings, started: probes.reporting(report_path(settings), started),
        needs=(TOPICS, TABLES, SPARK),
        restarts_with=(SPARK,),
        environment=_extra_streams,
        ignores=lambda name: name.startswith("replay_") or name in GRAPH_SETTINGS | API_SETTINGS | PRODUCER_SETTINGS,
        start_timeout_s=180,
        stop_timeout_s=40,
    ),
    *CODE_SERVERS,
    Part(
        name=DAGSTER_WEBSERVER,
        command=lambda settings: (
            *(sys.executable, "-m", "dagster_webserver", "-w", str(_workspace_file(settings))),
            *("-h", settings.dagster_host, "-p", str(settings.dagster_port)),
        ),
        is_ready=lambda settings, _: probes.webserver_serves(settings.dagster_address),
        needs=tuple(part.name for part in CODE_SERVERS),
        port_fields=("dagster_port",),
        environment=_dagster_environment,
        ignores=lambda _: True,
        files=dagster_files,
        start_timeout_s=180,
    ),
    Part(
        name=DAGSTER_DAEMON,
        command=lambda settings: (
            *(sys.executable, "-m", "dagster._daemon", "run", "-w", str(_workspace_file(settings))),
        ),
        is_ready=lambda settings, started: probes.daemon_healthy(settings.dagster_address, started),
        # The webserver reports the daemon's health; the first sensor tick reads the tables.
        needs=(TABLES, DAGSTER_WEBSERVER),
        environment=_dagster_environment,
        ignores=lambda _: True,
        files=dagster_files,
        start_timeout_s=180,
    ),
    Part(
        name=API,
        command=_module("cryptolake_assets.api"),
        is_ready=lambda settings, _: probes.http_responds(f"{settings.api_url}/health"),
        needs=(TABLES,),
        port_fields=("api_port",),
        ignores=lambda name: name.startswith("replay_") or name in PRODUCER_SETTINGS,
    ),
    Part(
        name=DASHBOARD,
        command=_module("cryptolake_assets.dashboard"),
        is_ready=lambda settings, _: probes.http_ok(f"{settings.dashboard_url}/_stcore/health"),
        port_fields=("dashboard_port",),
        # It reads only the API and starts without it: its pages then report that the API is unavailable.
        ignores=lambda name: name not in API_SETTINGS and name not in PORT_FIELDS,
    ),
)

STEPS: tuple[Step, ...] = (
    # The migration of a Spot home copies records, and creates the topics with the partitions of the earlier ones.
    Step(
        TABLES, "Iceberg tables", bootstrap, needs=(KAFKA,), required_by=(SPARK, PRODUCER, BRONZE, DAGSTER_DAEMON, API)
    ),
    Step(TOPICS, "Kafka topics", ensure_topics, needs=(KAFKA, TABLES), required_by=(KAFKA, PRODUCER, BRONZE)),
)


def local_parts(settings: Settings, names: Iterable[str] | None = None) -> tuple[Part, ...]:
    """Return the parts that run on this machine, in order; only those in `names` if given.

    Raises `ArgumentError` for an unknown name.
    """
    selected = None if names is None else set(names)
    for name in sorted(selected or ()):
        require_part(name, argument="--only")
    return tuple(part for part in PARTS if part.is_local(settings) and (selected is None or part.name in selected))


def part_named(name: str) -> Part:
    """Return the part with this name. Raises `ArgumentError` for an unknown name."""
    require_part(name)
    return next(part for part in PARTS if part.name == name)


def require_part(name: str, *, argument: str = "part", more: Iterable[str] = ()) -> None:
    """Raise `ArgumentError` for a name that is neither a part nor one of `more`."""
    known = [*(part.name for part in PARTS), *more]
    if name not in known:
        hint = did_you_mean(name, known)
        problem = f"no part is called {name}. {hint}".rstrip()
        raise ArgumentError(argument, f"{problem} Parts: {', '.join(known)}.")
