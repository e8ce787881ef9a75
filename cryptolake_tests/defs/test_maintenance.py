"""Maintenance runs of the graph: figures in each materialization, and a non-blocking check of small files."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest
from typer.testing import CliRunner

from cryptolake_assets.cli import app
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs.maintenance import CRON, as_markdown, key_of
from cryptolake_assets.lake.maintenance.layout import TableState
from cryptolake_assets.lake.maintenance.tasks import Report, TableChange, Task
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.bronze import append, trade

HOUR = datetime(2024, 7, 19, 10, tzinfo=UTC)


@pytest.fixture
def settings(lake: Settings) -> Settings:
    """The lake's settings; the exchange is unreachable."""
    return lake.model_copy(update={"exchange_port": 1, "snapshots_kept": 1})


def run(settings: Settings, task: Task) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).get_repository_def().get_job(f"maintenance_{task.value}")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.parametrize(("limit", "passed"), [(3, True), (2, False)])
def test_run_reports_figures_and_checks_small_files(settings: Settings, limit: int, passed: bool) -> None:
    for number in range(3):
        append(settings, [trade(HOUR, number)])
    result = run(settings.model_copy(update={"small_file_limit": limit}), Task.SNAPSHOTS)
    assert result.success, "the check does not block"
    (event,) = result.asset_materializations_for_node("maintenance__snapshot_expiry")
    assert event.asset_key == key_of(Task.SNAPSHOTS)
    figures = {name: value.value for name, value in event.metadata.items()}
    assert (figures["files_before"], figures["files_after"], figures["small_files_after"]) == (3, 3, 3)
    assert (figures["snapshots_before"], figures["snapshots_after"]) == (3, 3), (
        "the snapshots are younger than the retention"
    )
    assert figures["tables_changed"] == 0
    assert "| bronze.futures_trades | nothing was due | 3 |" in str(figures["tables"])
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == ("small_files", passed, dg.AssetCheckSeverity.WARN)
    assert check.metadata["max_per_table"].value == 3
    assert "cryptolake.bronze.futures_trades | 3" in str(check.metadata["tables"].value)
    assert passed or "cryptolake.bronze.futures_trades" in str(check.description)


def test_changed_figure_is_shown_before_and_after() -> None:
    before = TableState("bronze.t", 1200, 5000, 1200, 700, 700, 4000, 90000)
    after = TableState("bronze.t", 2, 4000, 0, 700, 701, 4010, 95000)
    text = as_markdown(Report(Task.COMPACTION, [TableChange(before, after, "2 hours")]))
    assert text.splitlines()[-1] == (
        "| bronze.t | 2 hours | 1,200 → 2 | 5,000 → 4,000 | 1,200 → 0 | 700 | 700 → 701 | 4,000 → 4,010 "
        "| 90,000 → 95,000 |"
    )


def test_tasks_never_start_in_the_same_minute() -> None:
    assert set(CRON) == set(Task)
    minutes: list[int] = []
    for cron in CRON.values():
        minute = cron.split()[0]
        first, _, step = minute.partition("/")
        minutes += range(int(first.split("-")[0]), 60, int(step)) if step else [int(minute)]
    assert len(minutes) > len(CRON), "some tasks start more than once an hour"
    assert sorted(minutes) == sorted(set(minutes))


def test_command_shows_every_table(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    result = CliRunner().invoke(app, ["maintain", "--only", "snapshot_expiry"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "nothing was due" in line]
    assert [line.split()[0] for line in lines] == [".".join(spec.identifier) for spec in TABLES]
