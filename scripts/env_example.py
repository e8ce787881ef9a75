"""Write .env.example from the settings class: every variable, its description and its default."""

from __future__ import annotations

import textwrap
from enum import Enum
from pathlib import Path

from pydantic import SecretStr

from cryptolake_assets.settings import PROJECT_ROOT, Settings, env_name
from cryptolake_assets.settings.api import ApiSettings
from cryptolake_assets.settings.graph import GraphSettings
from scripts.env_secrets import CHOICES, SECRETS

HEAD = """\
# Settings of CryptoLake. To change some, copy this file to .env and remove the `#` in front of them.
# Environment variables override .env, and .env overrides the defaults below.
"""


CLUSTER_HEAD = """\
# Variables that only docker-compose.yml reads. `make env` writes a value of each of them to .env, and values of
# MINIO_ROOT_USER, MINIO_ROOT_PASSWORD and CRYPTOLAKE_DASHBOARD_API_KEY; secrets are random.
"""


def default_text(value: object) -> str:
    """Return a default as the value of an environment variable."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Path) and value.is_relative_to(PROJECT_ROOT):
        return str(value.relative_to(PROJECT_ROOT))
    return "" if value is None else str(value)


def _place(name: str) -> int:
    """Return the sort key of a setting: pipeline, then API and dashboard, then graph."""
    return 2 if name in GraphSettings.model_fields else 1 if name in ApiSettings.model_fields else 0


def env_example() -> str:
    """Return the text of .env.example."""
    blocks = [HEAD]
    # The settings that every user needs come first.
    for name, field in sorted(Settings.model_fields.items(), key=lambda item: _place(item[0])):
        blocks.append(_block(str(field.description), env_name(name), default_text(field.default)))
    blocks.append(CLUSTER_HEAD)
    blocks += [_block(text, name, default) for name, (default, text) in CHOICES.items() if text]
    blocks += [_block(text, name, "") for name, text in SECRETS.items() if text]
    return "\n".join(blocks)


def _block(description: str, name: str, default: str) -> str:
    comment = textwrap.fill(description, 116, initial_indent="# ", subsequent_indent="# ")
    return f"{comment}\n#{name}={default}\n"


if __name__ == "__main__":
    (PROJECT_ROOT / ".env.example").write_text(env_example(), encoding="utf-8")
