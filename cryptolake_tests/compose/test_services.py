"""Commands and settings of the services of docker-compose.yml; the Grafana dashboard."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cryptolake_assets import cli
from cryptolake_assets.lake.stores import catalog_properties, spark_catalog
from cryptolake_assets.lake.stream_checkpoints import checkpoint
from cryptolake_assets.model.table_spec import CATALOG
from cryptolake_assets.model.tables import namespaces
from cryptolake_assets.platform import code_servers, jars, kafka
from cryptolake_assets.platform import spark_server as spark
from cryptolake_assets.platform.parts import PARTS
from cryptolake_assets.settings import PROJECT_ROOT, Engine, Settings, env_name, load_settings
from cryptolake_tests.support.compose import (
    DOCKERFILE,
    OWN,
    compose,
    environment,
    generated_secrets,
    services,
    settings_in,
)

# Commands.


@pytest.mark.parametrize("name", OWN)
def test_every_command_exists(name: str) -> None:
    commands = own_commands(services()[name])
    assert all(commands), "a command is empty"
    for words in commands:
        if words[0] == "cryptolake":
            assert CliRunner().invoke(cli.app, [*words[1:], "--help"]).exit_code == 0, words
            if words[1] in ("run", "ready"):
                assert words[2] in {part.name for part in PARTS}
        elif words[0] == "python" and words[1].endswith(".py"):
            folder = words[1].rpartition("/")[0]
            assert (PROJECT_ROOT / words[1]).is_file()
            assert f"COPY {folder} {folder}\n" in DOCKERFILE.read_text(encoding="utf-8"), (
                "the script is not in the image"
            )
        elif words[0] == "python":
            assert words[1] == "-c" or importlib.util.find_spec(words[2]), words
        else:
            assert words[0] == "printenv" or spark_class(words), words


def own_commands(service: dict[str, Any]) -> list[list[str]]:
    """Return the commands of the service and of its health check, each as a list of words."""
    command = list(service.get("entrypoint", [])) + list(service["command"])
    found = [command]
    if command[:2] == ["sh", "-ec"]:
        found = [part.split() for line in command[2].splitlines() for part in line.split("|")]
    check = service.get("healthcheck", {}).get("test", [])
    return [*found, *([check[1:]] if check else [])]


def spark_class(words: list[str]) -> bool:
    """Return whether the command is pyspark's launcher with a class of pyspark's jars."""
    home = re.search(r"SPARK_HOME=(\S+)", DOCKERFILE.read_text(encoding="utf-8"))
    assert home
    assert words[0] == f"{home[1]}/bin/spark-class"
    assert (spark.spark_home() / "bin" / "spark-class").exists()
    core = next((spark.spark_home() / "jars").glob("spark-core_*.jar"))
    names = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(core)], capture_output=True, text=True).stdout
    return f"{words[1].replace('.', '/')}.class" in names


@pytest.mark.parametrize("name", [name for name in OWN if services()[name].get("environment")])
def test_settings_of_every_service_are_valid(name: str, bare_environment: pytest.MonkeyPatch) -> None:
    known = {env_name(field) for field in Settings.model_fields}
    ours = {key for key in services()[name]["environment"] if key.startswith(("CRYPTOLAKE_", "ICEBERG_", "MINIO_"))}
    assert ours <= known, f"{name}: unknown settings"
    settings = settings_in(name, bare_environment)
    assert settings.source == "replay"
    live = settings_in(name, bare_environment, CRYPTOLAKE_SOURCE="binance", CRYPTOLAKE_SYMBOLS="BTCUSDT")
    if name in ("spark-master", "spark-worker"):
        assert "CRYPTOLAKE_SOURCE" not in services()[name]["environment"], "they do not use the exchange"
    else:
        assert settings.rest_url == f"http://exchange:{settings.exchange_port}"
        assert (live.ws_url, live.rest_url) == ("wss://fstream.binance.com", "https://fapi.binance.com")


def test_every_engine_has_the_catalog_and_the_store(bare_environment: pytest.MonkeyPatch) -> None:
    settings = settings_in("bronze-stream", bare_environment)
    variables = environment("bronze-stream", generated_secrets())
    assert settings.engine_in_use is Engine.SPARK
    properties = catalog_properties(settings)
    assert properties["type"] == "rest"
    assert properties["uri"] == "http://iceberg-rest:8181/api/catalog"
    assert properties["warehouse"] == "cryptolake"
    assert properties["scope"] == "PRINCIPAL_ROLE:ALL"
    assert properties["oauth2-server-uri"].startswith(properties["uri"])
    assert (properties["s3.endpoint"], properties["s3.access-key-id"]) == (
        "http://minio:9000",
        variables["MINIO_ROOT_USER"],
    )
    conf = spark_catalog(settings)
    for key in ("type", "uri", "warehouse", "scope", "oauth2-server-uri", "s3.endpoint"):
        assert conf[f"spark.sql.catalog.{CATALOG}.{key}"] == properties[key]
    assert conf[f"spark.sql.catalog.{CATALOG}.s3.path-style-access"] == "true"
    assert conf["spark.hadoop.fs.s3a.endpoint"] == "http://minio:9000"
    assert jars.STORE in jars.spark_groups(settings)


def test_tables_and_checkpoints_are_in_created_buckets(bare_environment: pytest.MonkeyPatch) -> None:
    settings = settings_in("bronze-stream", bare_environment)
    buckets = {word.removeprefix("lake/") for word in services()["mc"]["command"] if word.startswith("lake/")}
    locations = [settings.namespace_location_of(name) for name in namespaces()]
    places = [*locations, settings.checkpoint_location, settings.follower_location(), settings.warehouse_location]
    assert {str(place).split("/")[2] for place in places} == buckets
    assert {"bronze", "silver", "gold", "checkpoints"} <= buckets
    assert checkpoint(settings, "trades").startswith(("s3://checkpoints/", "s3a://checkpoints/"))


def test_spark_connect_uses_the_master_and_listens_on_all_addresses(bare_environment: pytest.MonkeyPatch) -> None:
    assert "SPARK_REMOTE" not in services()["spark-connect"]["environment"]
    conf = spark.server_conf(settings_in("spark-connect", bare_environment))
    assert conf["spark.master"] == services()["spark-worker"]["command"][-1] == "spark://spark-master:7077"
    assert conf["spark.connect.grpc.binding.address"] == "0.0.0.0"
    assert "spark.driver.host" not in conf


def test_webserver_and_daemon_reach_the_code_servers(bare_environment: pytest.MonkeyPatch) -> None:
    settings = settings_in("dagster-daemon", bare_environment)
    aliases = {
        alias: service["command"][-1]
        for service in services().values()
        for alias in service.get("networks", {}).get("default", {}).get("aliases", ())
    }
    locations = code_servers.locations()
    assert locations
    assert aliases == {code_servers.host(settings, location): location.part for location in locations}
    assert settings.dagster_database.get_secret_value().startswith("postgresql://dagster:")


def test_api_requires_keys_that_its_clients_have(bare_environment: pytest.MonkeyPatch) -> None:
    assert settings_in("api", bare_environment).api_keys_required
    assert settings_in("dashboard", bare_environment).dashboard_api_key.get_secret_value()
    script = services()["bootstrap"]["command"][-1]
    scrape = yaml.safe_load((PROJECT_ROOT / "docker/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (job,) = [one for one in scrape["scrape_configs"] if one["job_name"] == "cryptolake-api"]
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    (secret,) = services()["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert compose()["secrets"][secret]["environment"] in script
    assert "CRYPTOLAKE_DASHBOARD_API_KEY" in script


def test_broker_is_configured_like_the_local_one(bare_environment: pytest.MonkeyPatch) -> None:
    local = dict(line.split("=", 1) for line in kafka.server_properties(load_settings()).splitlines())
    container = services()["kafka"]["environment"]
    shared = {
        key: value
        for key, value in local.items()
        if re.match(r"(log\.retention|.*replication\.factor|.*min\.is|auto)", key)
    }
    assert len(shared) >= 9
    for key, value in shared.items():
        assert str(container[f"KAFKA_{key.upper().replace('.', '_')}"]) == value
    clients = {jar.version for jar in jars.locked_jars() if (jar.group, jar.name) == (jars.KAFKA, "kafka-server")}
    assert {services()["kafka"]["image"].partition(":")[2]} == clients


# Grafana.


@cache
def dashboard() -> dict[str, Any]:
    path = PROJECT_ROOT / "docker/grafana/dashboards/cryptolake.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_dashboard_uses_only_metrics_of_the_product() -> None:
    files = [PROJECT_ROOT / "cryptolake_assets" / "api" / name for name in ("observe.py", "health_routes.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    families = re.findall(r'(Counter|Gauge|Histogram|GaugeMetricFamily)\(\s*"(cryptolake_\w+)"', source)
    exported = set()
    for kind, name in families:
        endings = {"Counter": ("_total",), "Histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
        exported |= {name + ending for ending in endings}
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    # Ignore quoted text: table names look like metric names.
    used = {name for text in expressions for name in re.findall(r"\bcryptolake_\w+", re.sub(r'"[^"]*"', "", text))}
    assert used
    assert used <= exported
    labels = set(re.findall(r"\{\{(\w+)\}\}", json.dumps(dashboard())))
    assert labels
    assert labels <= set(re.findall(r'"(route|status|table|exchange|symbol)"', source))


def test_dashboard_is_provisioned_with_its_data_source() -> None:
    folder = PROJECT_ROOT / "docker/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/cryptolake.yml").read_text(encoding="utf-8"))["providers"]
    mounts = [volume.split(":") for volume in services()["grafana"]["volumes"]]
    assert provider["options"]["path"] in [target for _, target, *_ in mounts]
    assert {panel["datasource"]["uid"] for panel in dashboard()["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
