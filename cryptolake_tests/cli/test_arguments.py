"""Wrong arguments of the command line: every error names the argument, the cause and the next step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cryptolake_assets.cli import app
from cryptolake_assets.settings import get_settings

RUNNER = CliRunner()
FUTURE = "9999-12-31"


def run_command(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the output without the frame around it."""
    result = RUNNER.invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    text = re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", result.output)
    return result.exit_code, " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--only", "kafk"], "argument --only: no part is called kafk. Did you mean kafka? Parts: kafka, "),
        (["run", "ap"], "argument part: no part is called ap. Did you mean api?"),
        (["ready", "币安"], "argument part: no part is called 币安. Parts: kafka, "),
        (["logs", "supervisor"], "argument part: no part is called supervisor. Did you mean supervisord?"),
        (["archive", "--from", "2024-02-30"], "'--from': 2024-02-30 is not a date. Write it as YYYY-MM-DD"),
        (["archive", "--from", "18.07.2024"], "'--from': 18.07.2024 is not a date"),
        (["archive", "--from", FUTURE], f"'--from': {FUTURE} has not begun"),
        (["archive", "--from", "2024-07-18", "--to", "2024-07-17"], "--to: 2024-07-17 is before 2024-07-18"),
        (["archive", "--from", "2024-07-18", "--symbol", "../x"], "'--symbol': '../X' is not a symbol: letters, marks"),
        (["archive", "--from", "2024-07-18", "--symbol", ""], "'--symbol': '' is not a symbol"),
        (["replay", "/no/such/directory"], "'directory': dir '/no/such/directory' does not exist"),
        (["sql", "SELECT 1", "--engine", "trino"], "'--engine'"),
        (["peek", "-n", "0"], "'-n'"),
        (
            ["peek", "--market", "spot"],
            "--market: spot is not tracked. Use one of usdm, or add it to",
        ),
        (["archive", "--from", "2024-07-18", "--market", "kraken"], "'kraken' is not one of 'usdm', 'coinm', 'spot'"),
        (["keys", "create", "ada", "--scope", "admin"], "'admin' is not one of 'read', 'operate'"),
        (["keys", "revoke", "ada"], "keys: no key has the id or name ada. `cryptolake keys list` shows them."),
    ],
)
def test_wrong_argument_is_named_in_the_error(arguments: list[str], message: str) -> None:
    code, text = run_command(*arguments)
    assert code in (1, 2)
    assert message in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["bootstrap"],
        ["sql", "SELECT 1"],
        ["keys", "create", "ada"],
        ["maintain"],
        ["archive", "--from", "2024-07-18", "--symbol", "币安人生USDT"],
        ["materialize", "gold/futures_daily_stats", "--partition", "2024-07-18"],
    ],
    ids=" ".join,
)
def test_unusable_home_is_named_in_the_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a file"
    home.touch()
    monkeypatch.setenv("CRYPTOLAKE_HOME", str(home))
    monkeypatch.setenv("CRYPTOLAKE_DAGSTER_PORT", "9")
    monkeypatch.setenv("CRYPTOLAKE_ARCHIVE_URL", "http://127.0.0.1:9")
    get_settings.cache_clear()
    code, text = run_command(*arguments)
    assert code == 1
    assert "a file" in text
    assert "CRYPTOLAKE_HOME" in text


def test_damaged_catalog_is_named_in_the_error() -> None:
    catalog = get_settings().catalog_db
    catalog.parent.mkdir(parents=True)
    catalog.write_text("not a database, but long enough to be parsed as one" * 10)
    code, text = run_command("sql", "SELECT 1")
    assert code == 1
    assert text.startswith(f"catalog: {catalog} cannot be used (DatabaseError: file is not a database)")


def test_recording_without_frames_fails_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_EXCHANGE_PORT", "9")
    get_settings.cache_clear()
    code, text = run_command("record", str(tmp_path / "captures"), "--seconds", "1")
    assert code == 1
    assert "record: no frames received from ws://127.0.0.1:9. Check" in text
