"""docker-compose.yml as Compose reads it: services, variables, and the settings of a service's process."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
import yaml

from cryptolake_assets.settings import PROJECT_ROOT, Settings, load_settings
from scripts.env_secrets import completed

COMPOSE = PROJECT_ROOT / "docker-compose.yml"
DOCKERFILE = PROJECT_ROOT / "Dockerfile"
OWN_IMAGE = "cryptolake"
DOCUMENTED_SERVICES = {
    *("kafka", "kafka-ui", "minio", "mc", "iceberg-rest", "spark-master", "spark-worker", "spark-connect"),
    *("dagster-webserver", "dagster-daemon", "producer", "bronze-stream", "api", "dashboard", "prometheus", "grafana"),
}
PAGES = {
    **{"kafka-ui": 8080, "minio": 9001, "iceberg-rest": 8181, "spark-master": 8082, "dagster-webserver": 3000},
    **{"api": 8000, "dashboard": 8501, "prometheus": 9090, "grafana": 3001},
}
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")


@cache
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


SERVICES = sorted(services())
OWN = [name for name in SERVICES if services()[name]["image"].startswith(f"{OWN_IMAGE}:")]
ONE_SHOT = [name for name in SERVICES if services()[name]["restart"] in ("no", "on-failure:5")]


def text_of(value: object) -> str:
    return json.dumps(value)


def environment(name: str, variables: dict[str, str]) -> dict[str, str]:
    """Return a service's environment as Compose sets it with these variables."""

    def value(match: re.Match[str]) -> str:
        given = variables.get(match[1], "")
        if not given and match[2] == "?":
            raise AssertionError(f"{name}: {match[1]} is not set ({match[3]})")
        default: str = match[3] if match[2] == "-" else ""
        return given or default

    found = services()[name].get("environment") or {}
    return {key: VARIABLE.sub(value, str(text)) for key, text in found.items()}


def generated_secrets() -> dict[str, str]:
    """Return the variables that `scripts.env_secrets` adds to an empty .env file."""
    text, _ = completed("")
    return dict(line.split("=", 1) for line in text.splitlines())


def settings_in(name: str, monkeypatch: pytest.MonkeyPatch, **chosen: str) -> Settings:
    """Return the settings as the service's process reads them."""
    for variable, value in environment(name, generated_secrets() | chosen).items():
        monkeypatch.setenv(variable, value)
    return load_settings()
