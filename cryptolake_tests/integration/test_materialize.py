"""`cryptolake materialize` without a platform: the partition runs in the command's own process."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner, Result

from cryptolake_assets.cli import app
from cryptolake_assets.settings import Settings, get_settings

RUNNER = CliRunner()
PARTITION = "2024-07-18"


def materialize(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CRYPTOLAKE_DAGSTER_PORT", "9")  # a platform may use the default port
    get_settings.cache_clear()
    return RUNNER.invoke(app, ["materialize", *arguments])


def test_partition_is_materialized(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    done = materialize(lake, monkeypatch, "gold/futures_daily_stats", "--partition", PARTITION)
    assert (done.exit_code, done.stdout) == (0, f"materialized gold/futures_daily_stats [{PARTITION}]\n"), done.stderr


def test_failed_run_names_its_step_and_the_cause(
    lake: Settings, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_lake = lake.model_copy(update={"home": tmp_path_factory.mktemp("no-lake")})
    failed = materialize(no_lake, monkeypatch, "gold/futures_daily_stats", "--partition", PARTITION)
    assert failed.exit_code == 1
    message = failed.stderr.rstrip().splitlines()[-1]
    assert message.startswith(
        f"dagster: the run of gold/futures_daily_stats [{PARTITION}] failed: gold__futures_daily_stats: "
    )
    assert "cryptolake bootstrap" in message
