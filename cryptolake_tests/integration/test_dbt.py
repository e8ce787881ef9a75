"""dbt with the project's settings: commands that require Spark, and a manifest of the current files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from cryptolake_assets.errors import DbtError
from cryptolake_assets.platform import dbt
from cryptolake_assets.settings import load_settings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build"], True),
        (["--no-use-colors", "build", "--select", "ohlcv_5m"], True),
        (["docs", "generate"], True),
        (["source", "freshness"], True),
        (["parse"], False),
        (["build", "--help"], False),
        (["--version"], False),
        ([], False),
    ],
)
def test_commands_that_run_sql_need_spark(arguments: list[str], expected: bool) -> None:
    assert dbt.needs_spark(arguments) is expected


def test_unreachable_server_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_REMOTE", "sc://127.0.0.1:1")
    with pytest.raises(SystemExit) as ended:
        dbt.main(["build"])
    assert ended.value.code == 1
    assert "the Spark Connect server at sc://127.0.0.1:1 cannot be reached" in capsys.readouterr().err


def test_profile_names_no_server() -> None:
    outputs = yaml.safe_load((dbt.PROJECT_DIR / "profiles.yml").read_text())["cryptolake"]["outputs"]
    assert "sc://" not in json.dumps(outputs)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that tests may change."""
    project = tmp_path / "dbt_project"
    shutil.copytree(dbt.PROJECT_DIR, project)
    monkeypatch.setattr(dbt, "PROJECT_DIR", project)
    return project


def test_fingerprint_depends_on_the_project_files_only(copy: Path) -> None:
    before = dbt.fingerprint()
    (copy / "target").mkdir()
    (copy / "target" / "manifest.json").write_text("{}")
    assert dbt.fingerprint() == before
    model = copy / "models/marts/market_overview.sql"
    model.write_text(model.read_text() + "\n-- another word")
    assert dbt.fingerprint() != before


def test_manifest_is_parsed_once_per_version_of_the_project(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(home=tmp_path / "home")
    monkeypatch.setattr(type(settings), "lib_dir", property(lambda _: tmp_path / "lib"))
    manifest = dbt.ensure_manifest(settings)
    first = manifest.stat().st_mtime_ns
    assert "model.cryptolake.ohlcv_5m" in json.loads(manifest.read_text())["nodes"]
    assert dbt.ensure_manifest(settings).stat().st_mtime_ns == first

    (copy / "models/marts/ohlcv_5m.sql").write_text("select {{ nonsense(")
    with pytest.raises(DbtError, match=r"could not be parsed[\s\S]*ohlcv_5m"):
        dbt.ensure_manifest(settings)
    assert manifest.stat().st_mtime_ns == first
