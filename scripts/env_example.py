"""Writes .env.example from the settings class: every variable, its description and its default."""

from __future__ import annotations

import textwrap
from enum import Enum
from pathlib import Path

from pydantic import SecretStr

from cryptolake_assets.settings import PROJECT_ROOT, Settings, env_name
from cryptolake_assets.settings_api import ApiSettings
from cryptolake_assets.settings_graph import GraphSettings

HEAD = """\
# Settings of CryptoLake. Copy this file to .env and take the `#` away from what you change.
# The environment wins over .env, .env over the defaults below.
"""


def default_text(value: object) -> str:
    """A default as it would stand in the environment."""
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
    """The pipeline's settings, then the readers', then the graph's."""
    return 2 if name in GraphSettings.model_fields else 1 if name in ApiSettings.model_fields else 0


def env_example() -> str:
    """The text of .env.example."""
    blocks = [HEAD]
    # What everybody meets first stands first.
    for name, field in sorted(Settings.model_fields.items(), key=lambda item: _place(item[0])):
        comment = textwrap.fill(str(field.description), 116, initial_indent="# ", subsequent_indent="# ")
        blocks.append(f"{comment}\n#{env_name(name)}={default_text(field.default)}\n")
    return "\n".join(blocks)


if __name__ == "__main__":
    (PROJECT_ROOT / ".env.example").write_text(env_example(), encoding="utf-8")
