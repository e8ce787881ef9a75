"""The `cryptolake` command: help, rejected arguments, and printed results."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cryptolake_assets.cli import app
from cryptolake_assets.cli.output import MAX_TABLE_ROWS, OutputFormat, print_table
from cryptolake_assets.settings import PROJECT_ROOT, Settings, get_settings
from cryptolake_tests.support.platforms import DAGSTER_PARTS

RUNNER = CliRunner()
COMMANDS = (
    *("up", "down", "status", "logs", "demo", "bootstrap", "topics", "peek", "replay", "sql", "health", "setup"),
    *("run-bronze", "bronze-available-now", "materialize", "backup", "restore"),
)


def test_help_lists_every_command() -> None:
    result = RUNNER.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page(command: str) -> None:
    result = RUNNER.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage: cryptolake" in result.output or f"{command} [OPTIONS]" in result.output


def test_command_line_imports_no_heavy_package() -> None:
    code = (
        "import sys, cryptolake_assets.cli; "
        "print(*{'pyspark', 'pyiceberg', 'pyarrow', 'dagster', 'duckdb', 'pandas', 'aiokafka'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_wrong_setting_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_PROFILE", "laptop")
    get_settings.cache_clear()
    result = RUNNER.invoke(app, ["status"])
    assert result.exit_code == 1
    assert result.stderr.startswith("settings: CRYPTOLAKE_PROFILE")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_status_of_an_empty_home_shows_every_part_as_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    result = RUNNER.invoke(app, ["status", "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == [
        *("kafka", "spark", "exchange", "producer", "bronze", *DAGSTER_PARTS, "api", "dashboard")
    ]
    assert {row["state"] for row in rows} == {"stopped"}
    assert all(row["pid"] is None and row["log"].endswith(f"{row['name']}.log") for row in rows)
    table = RUNNER.invoke(app, ["status"])
    for row in rows:
        assert row["name"] in table.stdout
        assert row["log"] in table.stdout


def test_down_reports_that_nothing_was_running() -> None:
    result = RUNNER.invoke(app, ["down"])
    assert result.exit_code == 0
    assert "nothing was running" in result.stderr


def test_health_reports_problems() -> None:
    result = RUNNER.invoke(app, ["health"])
    assert result.exit_code == 1
    assert "no part is running. Start it with `cryptolake up`" in result.stderr


def test_health_script_reports_problems(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "scripts" / "health_check.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "CRYPTOLAKE_HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "no part is running" in result.stderr


def test_up_rejects_an_unknown_part() -> None:
    result = RUNNER.invoke(app, ["up", "--only", "zookeeper"])
    assert result.exit_code == 1
    assert "no part is called zookeeper" in result.stderr
    assert "dagster-daemon" in result.stderr


def test_replay_rejects_a_directory_without_captures(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["replay", str(tmp_path)])
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr


def test_logs_show_the_last_lines(tmp_path: Path) -> None:
    log = get_settings().log_dir / "kafka.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(100)), encoding="utf-8")
    result = RUNNER.invoke(app, ["logs", "kafka", "-n", "2"])
    assert result.stdout == "line 98\nline 99\n"
    assert RUNNER.invoke(app, ["logs", "zookeeper"]).exit_code == 1


def test_materialize_without_a_platform_rejects_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_DAGSTER_PORT", "9")  # a platform may run on the default port
    result = RUNNER.invoke(app, ["materialize", "silver/futures_ohlcv_1m", "--partition", "2024-07-18", "--no-wait"])
    assert result.exit_code == 1
    assert "cryptolake up" in result.stderr


@pytest.fixture
def values() -> pa.Table:
    """Return a table with one row of every type of value in the lake's tables, and one row of NULLs."""
    when = datetime(2024, 7, 18, 23, 58, 0, 1000, tzinfo=UTC)
    columns = {
        "symbol": pa.array(["BTC,USDT", None]),
        "tiny": pa.array([Decimal("0.0000000001"), None], pa.decimal128(38, 16)),
        "price": pa.array([Decimal("64000.00000000"), None], pa.decimal128(18, 8)),
        "count": pa.array([7, None], pa.int64()),
        "flag": pa.array([True, None]),
        "at": pa.array([when, None], pa.timestamp("us", "UTC")),
        "at_ns": pa.array([1_721_347_080_000_000_999, None], pa.timestamp("ns", "UTC")),
        "local": pa.array([datetime(2024, 7, 18, 23, 58), None], pa.timestamp("us")),
        "day": pa.array([date(2024, 7, 18), None]),
        "ratio": pa.array([1e-10, None], pa.float64()),
        "raw": pa.array([b'{"a":"\xff"}', None]),
        "list": pa.array([[Decimal("1.50")], None], pa.list_(pa.decimal128(4, 2))),
    }
    return pa.table(columns)


EXACT = {
    "symbol": "BTC,USDT",
    "tiny": "0.0000000001000000",
    "price": "64000.00000000",
    "at": "2024-07-18T23:58:00.001000Z",
    "at_ns": "2024-07-18T23:58:00Z",
    "local": "2024-07-18T23:58:00",
    "day": "2024-07-18",
    "raw": '{"a":"\\xff"}',
}


def printed(table: pa.Table, form: OutputFormat) -> str:
    out = io.StringIO()
    print_table(table, form, out)
    return out.getvalue()


def test_csv_is_exact(values: pa.Table) -> None:
    full, empty = csv.DictReader(io.StringIO(printed(values, OutputFormat.CSV)))
    assert full == {**EXACT, "count": "7", "flag": "true", "ratio": "1e-10", "list": '["1.50"]'}
    assert set(empty.values()) == {""}


def test_json_is_exact(values: pa.Table) -> None:
    full, empty = json.loads(printed(values, OutputFormat.JSON))
    assert full == {**EXACT, "count": 7, "flag": True, "ratio": 1e-10, "list": ["1.50"]}
    assert set(empty.values()) == {None}


def test_table_truncates_no_value(values: pa.Table) -> None:
    text = printed(values, OutputFormat.TABLE)
    for value in EXACT.values():
        assert value in text
    assert "NULL" in text
    assert "2 rows" in text


def test_long_table_reports_the_number_of_shown_rows() -> None:
    text = printed(pa.table({"n": list(range(MAX_TABLE_ROWS + 1))}), OutputFormat.TABLE)
    assert f"{MAX_TABLE_ROWS + 1} rows; the first {MAX_TABLE_ROWS} are shown" in text


def test_empty_result_keeps_its_columns() -> None:
    empty = pa.table({"a": pa.array([], pa.int64())})
    assert printed(empty, OutputFormat.CSV) == "a\n"
    assert json.loads(printed(empty, OutputFormat.JSON)) == []


def test_sql_on_an_empty_lake_prints_the_columns(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_HOME", str(lake.home))
    get_settings.cache_clear()
    result = RUNNER.invoke(app, ["sql", "--format", "csv", "SELECT * FROM cryptolake.gold.futures_daily_stats"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("exchange,symbol,trade_date,")
    rejected = RUNNER.invoke(app, ["sql", "SELEC 1"])
    assert rejected.exit_code == 1
    assert "sql:" in rejected.stderr


def test_ready_probes_a_part_of_any_supervisor(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_HOME", str(lake.home))
    get_settings.cache_clear()
    stopped = RUNNER.invoke(app, ["ready", "producer"])
    assert stopped.exit_code == 1
    assert "producer: not ready" in stopped.stderr
    lake.run_dir.mkdir(parents=True, exist_ok=True)
    (lake.run_dir / "producer.json").write_text("{}")
    assert RUNNER.invoke(app, ["ready", "producer"]).exit_code == 0
    unknown = RUNNER.invoke(app, ["ready", "nonsense"])
    assert unknown.exit_code == 1
    assert "no part is called nonsense" in unknown.stderr


def test_key_is_registered_from_standard_input(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_HOME", str(lake.home))
    get_settings.cache_clear()
    command = ["keys", "register", "prometheus", "--scope", "operate"]
    text = secrets.token_urlsafe(32)
    assert RUNNER.invoke(app, command, input=f"{text}\n").stdout == "prometheus: registered\n"
    assert RUNNER.invoke(app, command, input=text).stdout == "prometheus: already registered\n"
    assert RUNNER.invoke(app, command, input="short").exit_code == 1
