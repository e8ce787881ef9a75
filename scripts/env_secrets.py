"""Generate the secrets of docker-compose.yml in .env; existing values stay, and only the owner can read the file.

Needs only the standard library: `make env` works before `make setup`.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

ENV_FILE = Path(__file__).resolve().parent.parent / ".env"
SECRET_BYTES = 32

# Generated secrets: variable to description; empty for settings, whose description is in the settings class.
SECRETS = {
    "MINIO_ROOT_PASSWORD": "",
    "CRYPTOLAKE_DASHBOARD_API_KEY": "",
    "PROMETHEUS_API_KEY": "Key of the HTTP API with which Prometheus reads the metrics.",
    "POSTGRES_PASSWORD": "Password of PostgreSQL's superuser.",
    "POLARIS_DB_PASSWORD": "Password of the catalog's database.",
    "DAGSTER_DB_PASSWORD": "Password of Dagster's database.",
    "POLARIS_CLIENT_SECRET": "Secret of `cryptolake`, the client of the REST catalog.",
    "POLARIS_TOKEN_KEY": "Key with which the REST catalog signs its tokens.",
    "KAFKA_UI_PASSWORD": "Password of `cryptolake` in the Kafka UI.",
    "GRAFANA_PASSWORD": "Password of `cryptolake` in Grafana.",
}

# Other generated variables: default and description.
CHOICES = {
    "CLUSTER_BIND_ADDRESS": (
        "127.0.0.1",
        "Address of this machine on which the services' pages are published. Several pages have no login: before you "
        "publish them on another address, put a proxy with a login in front.",
    ),
    "COMPOSE_PROFILES": ("replay", "`replay` starts the replay exchange; empty with CRYPTOLAKE_SOURCE=binance."),
    "MINIO_ROOT_USER": ("cryptolake", ""),
}

_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")


def completed(text: str) -> tuple[str, list[str]]:
    """Return the file's text with a value for every variable without one, and the names of the added variables.

    A line without a value is replaced. An empty COMPOSE_PROFILES is kept: it is a valid value.
    """
    lines = text.splitlines()
    found = {match[1]: number for number, line in enumerate(lines) if (match := _LINE.match(line))}
    added: list[str] = []
    for name in (*CHOICES, *SECRETS):
        number = found.get(name)
        if number is not None:
            value = _LINE.match(lines[number])
            if name == "COMPOSE_PROFILES" or (value and value[2].strip("'\"")):
                continue
        line = f"{name}={CHOICES[name][0] if name in CHOICES else secrets.token_urlsafe(SECRET_BYTES)}"
        if number is None:
            lines.append(line)
        else:
            lines[number] = line
        added.append(name)
    return "".join(f"{line}\n" for line in lines), added


def write(path: Path) -> list[str]:
    """Complete the file atomically, readable only by its owner; return the names of the added variables."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text, added = completed(before)
    if added:
        draft = path.with_name(f"{path.name}.draft")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    path.chmod(0o600)
    return added


def main(arguments: list[str]) -> None:
    path = Path(arguments[0]) if arguments else ENV_FILE
    added = write(path)
    names = ", ".join(added)
    print(f"{path}: added {names}" if added else f"{path}: complete")


if __name__ == "__main__":
    main(sys.argv[1:])
