"""The parts and their generated configuration."""

from __future__ import annotations

import json
import select
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pydantic import SecretStr

from cryptolake_assets.errors import ArgumentError, SettingsError
from cryptolake_assets.model.markets import Market
from cryptolake_assets.platform import code_servers, kafka, launch
from cryptolake_assets.platform import spark_server as spark
from cryptolake_assets.platform.parts import (
    BRONZE,
    CODE_SERVERS,
    PARTS,
    PRODUCER,
    STEPS,
    Part,
    local_parts,
    part_named,
)
from cryptolake_assets.platform.properties import properties_text
from cryptolake_assets.platform.supervisor import Supervisor, write_private
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.captures import mark_price_frame, write_capture
from cryptolake_tests.support.fakes import NOON_MS
from cryptolake_tests.support.platforms import DAGSTER_PARTS

BY_NAME = {part.name: part for part in PARTS}
CODE = {part.name for part in CODE_SERVERS}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "a home 100%")


def read_properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_every_dependency_is_a_part_or_a_step() -> None:
    names = {part.name for part in PARTS} | {step.name for step in STEPS}
    assert {need for part in PARTS for need in part.needs} <= names
    assert {need for step in STEPS for need in step.needs} <= names
    for step in STEPS:
        assert set(step.required_by) <= {part.name for part in PARTS}


def test_external_brokers_and_spark_are_not_started() -> None:
    assert [part.name for part in local_parts(load_settings())] == [part.name for part in PARTS]
    external = load_settings(
        kafka_bootstrap_servers="broker.example:9092", spark_remote="sc://spark.example:15002", source="binance"
    )
    assert [part.name for part in local_parts(external)] == [
        *("producer", "bronze", *DAGSTER_PARTS, "api", "dashboard")
    ]


def test_unknown_part_is_rejected(settings: Settings) -> None:
    with pytest.raises(ArgumentError, match="argument --only: no part is called zookeeper"):
        local_parts(settings, ["kafka", "zookeeper"])
    with pytest.raises(ArgumentError, match=r"argument part: no part is called producr\. Did you mean"):
        part_named("producr")


def test_broker_listens_on_loopback_and_requires_no_second_broker(settings: Settings) -> None:
    values = read_properties(kafka.server_properties(settings))
    assert values["listeners"] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert {value for key, value in values.items() if key.endswith(("replication.factor", "min.isr"))} == {"1"}
    assert values["group.initial.rebalance.delay.ms"] == "0"
    assert values["log.dirs"] == str(settings.home / "kafka" / "data")


def test_spark_binds_loopback_and_has_the_lakes_configuration(settings: Settings) -> None:
    conf = spark.server_conf(settings)
    assert conf["spark.connect.grpc.binding.address"] == "127.0.0.1"
    assert conf["spark.driver.bindAddress"] == "127.0.0.1"
    assert spark.environment(settings)["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert conf["spark.sql.defaultCatalog"] == "cryptolake"
    assert "jdk.incubator.vector" not in " ".join(spark.command(settings))


def test_spark_on_a_cluster_master_has_the_jars_and_no_loopback(tmp_path: Path) -> None:
    conf = spark.server_conf(load_settings(home=tmp_path, spark_master="spark://master.example:7077"))
    assert "spark.driver.host" not in conf
    assert "spark.jars" in conf


def test_properties_are_escaped_for_java() -> None:
    text = properties_text({"a b": "c:\\d", "e": " f", "g": "ü\n😀"})
    assert text == "a\\ b=c:\\\\d\ne=\\ f\ng=\\u00fc\\n\\ud83d\\ude00\n"


@pytest.mark.parametrize(
    ("change", "restarted"),
    [
        ({"replay_speed": 1.0}, {"exchange", "producer", *CODE}),
        ({"replay_dir": Path("/captures")}, {"exchange", "producer", *CODE}),
        ({"spark_memory_mb": 4096}, {"spark"}),
        ({"symbols": ("ETHUSDT",)}, set(CODE)),  # the producer polls the file
        ({"markets": (Market.USD_M, Market.SPOT)}, {"exchange", "producer", "bronze", "api", *CODE}),
        ({"connection_life_s": 600.0}, {"producer", *CODE}),
        ({}, set()),
    ],
)
def test_changed_setting_restarts_only_the_parts_that_use_it(
    settings: Settings, change: dict[str, object], restarted: set[str]
) -> None:
    changed = settings.model_copy(update=change)

    def digest(of: Settings, part: Part) -> str:
        spec, files = part.spec(of), part.files(of)
        return json.dumps([spec, {str(path): text for path, text in files.items()}], sort_keys=True)

    assert {part.name for part in PARTS if digest(settings, part) != digest(changed, part)} == restarted


def test_bronze_gets_the_streams_of_the_capture(settings: Settings, tmp_path: Path) -> None:
    (bronze,) = (part for part in PARTS if part.name == BRONZE)

    def extra_streams(of: Settings) -> str:
        environment: dict[str, str] = bronze.spec(of)["environment"]  # type: ignore[assignment]
        assert "CRYPTOLAKE_REPLAY_DIR" not in environment
        return environment["CRYPTOLAKE_EXTRA_STREAMS"]

    frames = [(NOON_MS * 10**6, mark_price_frame("BTCUSDT", NOON_MS))]
    directory = write_capture(tmp_path / "captured" / "frames.ndjson", frames)
    assert extra_streams(settings) == "none"
    assert extra_streams(settings.model_copy(update={"replay_dir": directory})) == "markPrice"
    both = {"extra_streams": ("forceOrder", "markPrice")}
    assert extra_streams(settings.model_copy(update=both)) == "markPrice,forceOrder"
    spot_first = {"market": Market.SPOT, "markets": (Market.SPOT, Market.USD_M)}
    assert extra_streams(settings.model_copy(update=both | spot_first)) == "markPrice,forceOrder"
    assert extra_streams(settings.model_copy(update=both | {"market": Market.SPOT})) == "none"


def test_producer_gets_the_symbols_by_a_file(settings: Settings, tmp_path: Path) -> None:
    (producer,) = (part for part in PARTS if part.name == PRODUCER)
    changed = settings.model_copy(update={"symbols": ("ETHUSDT", "BTC*")})
    ((path, text),) = producer.watched_files(changed).items()
    assert text == "ETHUSDT\nBTC*\n"
    environment = producer.spec(changed)["environment"]
    assert isinstance(environment, dict)
    assert environment["CRYPTOLAKE_SYMBOLS_FILE"] == str(path)
    assert "CRYPTOLAKE_SYMBOLS" not in environment
    several = load_settings(home=settings.home, markets="usdm,spot", symbols="BTCUSDT;spot:BTCUSDT,top:20:USDC")
    ((path, text),) = producer.watched_files(several).items()
    assert text == "BTCUSDT\nspot:BTCUSDT\nspot:TOP:20:USDC\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    read = several.model_copy(update={"symbols": (), "symbols_file": path})
    assert [one.symbol_items for one in read.each_market] == [("BTCUSDT",), ("BTCUSDT", "TOP:20:USDC")]
    own = settings.model_copy(update={"symbols_file": tmp_path / "mine.txt"})
    assert producer.watched_files(own) == {}
    assert producer.spec(own)["environment"]["CRYPTOLAKE_SYMBOLS_FILE"] == str(tmp_path / "mine.txt")  # type: ignore[index]


def test_supervisor_files_are_private_and_complete(settings: Settings) -> None:
    value = 'a "b" %s; c'
    secret = load_settings(home=settings.home, minio_root_password=SecretStr(value))
    supervisor = Supervisor(secret)
    supervisor.write_config(PARTS)
    text = supervisor.config_file.read_text()
    assert [line for line in text.splitlines() if line.startswith("[program:")] == [
        f"[program:{part.name}]" for part in PARTS
    ]
    assert "100%%" in text
    for path in (supervisor.config_file, *(secret.run_dir / "parts").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    spec = json.loads((secret.run_dir / "parts" / "producer.json").read_text())
    assert spec["environment"]["CRYPTOLAKE_INSTANCE"] == str(secret.home)
    assert spec["environment"]["MINIO_ROOT_PASSWORD"] == value


def test_same_settings_generate_the_same_configuration(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.write_config(PARTS)
    first = supervisor.config_file.read_text()
    supervisor.write_config(PARTS)
    assert supervisor.config_file.read_text() == first


def test_path_unsupported_by_the_supervisor_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unsupported path"):
        Supervisor(load_settings(home=tmp_path / "a ;b")).write_config(PARTS)


def test_launcher_passes_exact_values_to_the_command(tmp_path: Path) -> None:
    value = 'quote " percent % semicolon ; hash # and \n line'
    code = "import json, os, sys; print(json.dumps([os.environ['V'], os.getcwd(), sys.stdin.read(), sys.argv[1:]]))"
    spec = {
        "command": [sys.executable, "-c", code, value],
        "environment": {"V": value},
        "directory": str(tmp_path),
    }
    write_private(tmp_path / "spec.json", json.dumps(spec))
    result = subprocess.run(
        [sys.executable, "-I", "-S", launch.__file__, str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == [value, str(tmp_path), "", [value]]


def test_broker_waits_for_space_before_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a full disk it would delete its metadata log, and with it all topics."""
    settings = load_settings(home=tmp_path)
    (kafka,) = (part for part in PARTS if part.name == "kafka")
    write_private(tmp_path / "spec.json", json.dumps(kafka.spec(settings)))
    free, steps = [0, 5_000_000, 2_000_000_000], []
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    monkeypatch.setattr("time.sleep", lambda _: steps.append("waited"))
    monkeypatch.setattr(launch, "become", lambda spec: steps.append(spec["command"]))
    launch.main(str(tmp_path / "spec.json"))
    assert steps == ["waited", "waited", list(kafka.command(settings))]


def test_supervisor_pipe_keeps_a_reader(tmp_path: Path) -> None:
    code = "import sys; print(repr(sys.stdin.read()), flush=True); import time; time.sleep(600)"
    spec = {"command": [sys.executable, "-c", code], "environment": {}, "directory": str(tmp_path)}
    write_private(tmp_path / "spec.json", json.dumps(spec))
    with subprocess.Popen(
        [sys.executable, "-I", "-S", launch.__file__, str(tmp_path / "spec.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "''\n", "the part reads an empty stdin at once"
            poller = select.poll()
            poller.register(process.stdin, 0)
            assert poller.poll(0) == [], "an error here would make supervisord busy-poll"
        finally:
            process.kill()


def test_part_started_in_the_background_handles_an_interrupt(tmp_path: Path) -> None:
    code = "import signal; print([signal.getsignal(n) == signal.SIG_IGN for n in (signal.SIGINT, signal.SIGQUIT)])"
    spec = {"command": [sys.executable, "-c", code], "environment": {}, "directory": str(tmp_path)}
    write_private(tmp_path / "spec.json", json.dumps(spec))
    background = ["sh", "-c", 'trap "" INT QUIT; exec "$@"', "sh"]
    result = subprocess.run(
        [*background, sys.executable, "-I", "-S", launch.__file__, str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[False, False]\n"


def test_remote_code_servers_have_the_host_names_of_their_parts() -> None:
    workspace = yaml.safe_load(code_servers.workspace_text(load_settings(code_server_host="{part}.example")))
    found = [entry["grpc_server"] for entry in workspace["load_from"]]
    assert {(one["host"], one["port"]) for one in found} == {
        (f"{location.part}.example", 4000 + number) for number, location in enumerate(code_servers.locations())
    }


def test_spark_connect_server_listens_on_the_configured_host() -> None:
    assert spark.server_conf(load_settings())["spark.connect.grpc.binding.address"] == "127.0.0.1"
    conf = spark.server_conf(load_settings(spark_connect_host="0.0.0.0"))
    assert conf["spark.connect.grpc.binding.address"] == "0.0.0.0"


@pytest.mark.parametrize("location", sorted(CODE))
def test_capture_with_other_days_restarts_the_code_servers(tmp_path: Path, location: str) -> None:
    captures = tmp_path / "captures"
    captures.mkdir()
    write_capture(captures / "a.ndjson", [(NOON_MS * 10**6, mark_price_frame("BTCUSDT", NOON_MS))])
    settings = load_settings(home=tmp_path / "home", replay_dir=captures, end_date=None)
    before = BY_NAME[location].spec(settings)
    days = [before["environment"][f"CRYPTOLAKE_{name}_DATE"] for name in ("START", "END")]  # type: ignore[index]
    assert days == ["2023-11-15", "2023-11-15"]
    assert BY_NAME[location].spec(settings) == before
    later_ms = NOON_MS + 86_400_000
    write_capture(captures / "b.ndjson", [(later_ms * 10**6, mark_price_frame("BTCUSDT", later_ms))])
    assert BY_NAME[location].spec(settings) != before
    live = BY_NAME[location].spec(load_settings(home=tmp_path / "home", source="binance", end_date=None))
    assert live["environment"]["CRYPTOLAKE_END_DATE"] == ""  # type: ignore[index]
