"""Fixture of an environment without the developer's settings."""

from __future__ import annotations

import pytest

from cryptolake_assets.settings import Settings, env_name


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove all settings from the environment; return the monkeypatch."""
    for field in Settings.model_fields:
        monkeypatch.delenv(env_name(field), raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    return monkeypatch
