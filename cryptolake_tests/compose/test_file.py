"""docker-compose.yml without Docker: schema, images, privileges, ports, variables; the commands of docs/cluster.md."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cryptolake_assets import cli
from cryptolake_assets.settings import PROJECT_ROOT
from cryptolake_tests.support.compose import (
    COMPOSE,
    DOCKERFILE,
    DOCUMENTED_SERVICES,
    ONE_SHOT,
    OWN,
    OWN_IMAGE,
    PAGES,
    SERVICES,
    VARIABLE,
    compose,
    services,
    settings_in,
    text_of,
)
from scripts.env_secrets import CHOICES, SECRETS, completed, write

INDEPENDENT = {"exchange", "kafka", "minio-volume", "postgres", "spark-master"}  # services without dependencies

# The file.


def test_file_conforms_to_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_invalid_file_fails_the_schema_check(tmp_path: Path) -> None:
    invalid = tmp_path / "docker-compose.yml"
    invalid.write_text(COMPOSE.read_text(encoding="utf-8").replace("    restart: on-failure:5\n", "    restarts: x\n"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(invalid)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode != 0


def test_documented_services_exist() -> None:
    assert set(SERVICES) >= DOCUMENTED_SERVICES


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_and_from_docker_hub(name: str) -> None:
    image, _, tag = services()[name]["image"].partition(":")
    assert re.search(r"\d+\.\d+|RELEASE\.\d{4}-\d{2}-\d{2}T", tag), services()[name]["image"]
    assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)?", image), "the image name has a host name"


def test_own_image_has_this_version_and_pinned_bases() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {services()[name]["image"] for name in OWN} == {f"{OWN_IMAGE}:{project['version']}"}
    dockerfile = DOCKERFILE.read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", bases[0]), bases[0]
    assert set(bases[1:]) == {"base"}, "the other stages are based on the first"
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE) for word in line.split()
    }
    assert copied
    for path in copied:
        assert (PROJECT_ROOT / path).exists(), path
        ignored = (PROJECT_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        assert f"!{path}" in ignored, f"{path} is excluded from the build context"
    assert "--require-hashes" in dockerfile
    assert dockerfile.rindex("USER cryptolake") > dockerfile.rindex("COPY")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_limits_a_health_check_and_a_restart_policy(name: str) -> None:
    service = services()[name]
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert limits["cpus"]
    if name in ONE_SHOT:
        # `up --wait` treats an exit as a failure unless another service waits for its success.
        dependents = [
            other
            for other in services().values()
            if other.get("depends_on", {}).get(name, {}).get("condition") == "service_completed_successfully"
        ]
        assert dependents or service.get("profiles") == ["tools"]
    else:
        assert service["restart"] == "unless-stopped"
        assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_runs_with_minimal_privileges(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    is_root = str(service["user"]).split(":")[0] in ("0", "root")
    assert not is_root or (name, service["cap_add"], service["network_mode"]) == ("minio-volume", ["CHOWN"], "none")


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_exist_and_can_be_satisfied(name: str) -> None:
    dependencies = services()[name].get("depends_on") or {}
    assert dependencies or name in INDEPENDENT, "the service would start before its dependencies"
    for other, dependency in dependencies.items():
        expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert dependency["condition"] == expected, f"{name} waits for {other}"
        assert dependency.get("required", True) != ("profiles" in services()[other])


def test_volumes_are_named_and_mounted_files_exist() -> None:
    volumes = [volume for service in services().values() for volume in service.get("volumes") or ()]
    files = [volume for volume in volumes if volume.startswith("./")]
    assert len(files) > 0
    for volume in files:
        assert (PROJECT_ROOT / volume.split(":")[0]).exists(), volume
        assert volume.endswith(":ro"), volume
    assert {volume.split(":")[0] for volume in volumes if volume not in files} == set(compose()["volumes"])


# Ports.


def test_published_ports_are_the_documented_ones_on_the_bind_address() -> None:
    found: dict[str, int] = {}
    for name in SERVICES:
        for port in services()[name].get("ports", ()):
            match = re.fullmatch(r"\$\{CLUSTER_BIND_ADDRESS:-127\.0\.0\.1\}:(\d+):\d+", port)
            assert match, f"{name}: {port}"
            found[name] = int(match[1])
    assert found == PAGES
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("name", "field"),
    [("api", "api_port"), ("dashboard", "dashboard_port"), ("dagster-webserver", "dagster_port")],
)
def test_published_ports_equal_the_settings(name: str, field: str, bare_environment: pytest.MonkeyPatch) -> None:
    (port,) = services()[name]["ports"]
    assert int(port.rpartition(":")[2]) == getattr(settings_in(name, bare_environment), field)


def test_internal_addresses_are_services_and_their_ports(bare_environment: pytest.MonkeyPatch) -> None:
    settings = settings_in("cli", bare_environment)
    assert settings.bootstrap_servers == "kafka:9092"
    assert settings.spark_connect_url == f"sc://spark-connect:{settings.spark_connect_port}"
    assert settings.dagster_address == f"http://dagster-webserver:{settings.dagster_port}"
    assert settings.ws_url == f"ws://exchange:{settings.exchange_port}"
    for address in (settings.iceberg_rest_uri, settings.minio_endpoint, settings.dagster_address, settings.rest_url):
        assert re.split(r"[:/]+", address)[1] in SERVICES
    dashboard = settings_in("dashboard", bare_environment)
    assert dashboard.dashboard_reads == f"http://api:{dashboard.api_port}"


# Variables and secrets.


def test_every_variable_is_described() -> None:
    used = {match[1] for match in VARIABLE.finditer(COMPOSE.read_text(encoding="utf-8"))}
    used |= {secret["environment"] for secret in compose()["secrets"].values()}
    example = (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8")
    assert used <= set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE))
    assert {*SECRETS} <= used


def test_file_has_no_secrets() -> None:
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|KEY$|KEY_ID$|_CREDENTIAL$|MC_HOST|ROOT_USER$")
    given = {
        (name, key): str(value)
        for name in SERVICES
        for key, value in (services()[name].get("environment") or {}).items()
        if secret.search(key)
    }
    assert {"MINIO_ROOT_PASSWORD", "POSTGRES_PASSWORD", "ICEBERG_REST_CREDENTIAL"} <= {key for _, key in given}
    assert {place: value for place, value in given.items() if "${" not in value} == {}
    used = [match for match in VARIABLE.finditer(COMPOSE.read_text(encoding="utf-8")) if match[1] in SECRETS]
    assert used
    assert {match[1] for match in used if match[2] != "?"} == set(), "a secret has a default"


@pytest.mark.parametrize("name", OWN)
def test_services_have_only_the_secrets_that_they_need(name: str) -> None:
    secrets = {match[1] for match in VARIABLE.finditer(text_of(services()[name].get("environment") or {}))} & {*SECRETS}
    lake = {"POLARIS_CLIENT_SECRET", "MINIO_ROOT_PASSWORD"}
    expected = {
        **{part: set() for part in ("spark-master", "spark-worker", "exchange")},
        **{part: lake | {"DAGSTER_DB_PASSWORD"} for part in OWN if part.startswith("dagster-")},
        "dashboard": {"CRYPTOLAKE_DASHBOARD_API_KEY"},
        "bootstrap": lake | {"CRYPTOLAKE_DASHBOARD_API_KEY", "PROMETHEUS_API_KEY"},
    }
    assert secrets == expected.get(name, lake)


def test_secrets_are_generated_once_and_readable_only_by_the_owner(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nexport GRAFANA_PASSWORD='chosen'\nPOSTGRES_PASSWORD=\nCRYPTOLAKE_SYMBOLS=BTCUSDT\n")
    path.chmod(0o644)
    added = write(path)
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "GRAFANA_PASSWORD" not in added
    assert first.startswith("# mine\nexport GRAFANA_PASSWORD='chosen'\nPOSTGRES_PASSWORD=")
    values = dict(line.split("=", 1) for line in first.splitlines()[2:])
    assert {*SECRETS, *CHOICES} <= {*values, "GRAFANA_PASSWORD"}
    assert len({values[name] for name in SECRETS if name in values}) == len(SECRETS) - 1
    assert all(len(values[name]) >= 40 for name in SECRETS if name in values)
    assert write(path) == []
    assert path.read_text() == first


def test_empty_profile_is_kept() -> None:
    text, added = completed("COMPOSE_PROFILES=\n")
    assert "COMPOSE_PROFILES" not in added
    assert text.startswith("COMPOSE_PROFILES=\n")


# The commands of docs/cluster.md.


def documented_commands() -> list[str]:
    text = (PROJECT_ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    block = text.partition("## Validate Bronze end-to-end")[2].partition("```sh\n")[2].partition("```")[0]
    return block.splitlines()


def test_ci_runs_the_documented_commands() -> None:
    workflow = yaml.safe_load((PROJECT_ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    executed = [
        step["run"].strip() for step in workflow["jobs"]["cluster"]["steps"] if "run" in step and "if" not in step
    ]
    assert len(executed) >= 8
    assert executed == documented_commands()


def test_documented_commands_are_valid() -> None:
    text = "\n".join(documented_commands())
    called = re.findall(r"docker compose run --rm -T cli ([^|\n]+)", text)
    assert {"topics", "bootstrap", "sql", "peek", "bronze-available-now"} == {line.split()[0] for line in called}
    for line in called:
        words = shlex.split(line.replace('" | tail', '"').rstrip(" )"))
        assert CliRunner().invoke(cli.app, [*words, "--help"]).exit_code == 0, words
    assert {*re.findall(r"docker compose (?:up --wait|stop) ([a-z-]+)", text)} <= set(SERVICES)
