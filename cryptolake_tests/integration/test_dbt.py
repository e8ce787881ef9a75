"""dbt on the project's settings: which commands need Spark, and a manifest that fits the files."""

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
    ("arguments", "wanted"),
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
def test_which_commands_get_a_session(arguments: list[str], wanted: bool) -> None:
    assert dbt.needs_spark(arguments) is wanted


def test_a_command_without_a_server_says_so_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_REMOTE", "sc://127.0.0.1:1")
    with pytest.raises(SystemExit) as ended:
        dbt.main(["build"])
    assert ended.value.code == 1
    assert "the Spark Connect server at sc://127.0.0.1:1 cannot be reached" in capsys.readouterr().err


def test_the_profile_names_no_server() -> None:
    outputs = yaml.safe_load((dbt.PROJECT_DIR / "profiles.yml").read_text())["cryptolake"]["outputs"]
    assert "sc://" not in json.dumps(outputs)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project at another place, so that it can be changed."""
    project = tmp_path / "dbt_project"
    shutil.copytree(dbt.PROJECT_DIR, project)
    monkeypatch.setattr(dbt, "PROJECT_DIR", project)
    return project


def test_the_fingerprint_moves_with_the_files_and_not_with_what_dbt_leaves(copy: Path) -> None:
    before = dbt.fingerprint()
    (copy / "target").mkdir()
    (copy / "target" / "manifest.json").write_text("{}")
    assert dbt.fingerprint() == before
    model = copy / "models/marts/market_overview.sql"
    model.write_text(model.read_text() + "\n-- another word")
    assert dbt.fingerprint() != before


def test_the_manifest_follows_the_project_and_is_parsed_once(
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
