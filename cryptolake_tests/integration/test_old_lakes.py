"""Lakes of an earlier release: read unchanged, migrated to the current columns, and extended."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.migrations import MIGRATIONS, lake_schema
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.markets import Market, venue_of
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.platform.parts import KAFKA
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.lakes import OLD_LAKES, open_old
from cryptolake_tests.support.platforms import StartPlatform, free_ports
from cryptolake_tests.support.silver_runs import rebuild, refresh_day

HOUR = datetime(2024, 7, 19, tzinfo=UTC)
ORDERS = {
    "silver.futures_ohlcv_1m": "symbol, window_start",
    "gold.futures_daily_stats": "symbol, trade_date",
}
LATER_COLUMNS = ("exchange", "stream", "trades_dropped", "evidence")


KILLED_BOOTSTRAP = """
import os, signal, sys
from pyiceberg.catalog.sql import SqlCatalog
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.settings import get_settings

commit_table, moment = SqlCatalog.commit_table, sys.argv[1]

def commit(self, *arguments):
    if moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit_table(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

SqlCatalog.commit_table = commit
bootstrap(get_settings())
"""
"""A bootstrap that is killed before or after its first commit to a table."""


@pytest.fixture(params=["usdm", "spot"])
def old_lake(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_platform: StartPlatform
) -> Iterator[tuple[Settings, dict[str, Any]]]:
    """Settings of an old lake, and the rows that its release returned; a Spot home needs its broker to move."""
    name: str = request.param
    kafka: dict[str, Any] = {"kafka_bootstrap_servers": "127.0.0.1:9"}
    if name == "spot":
        kafka = {**free_ports()}
    settings = open_old(
        name,
        tmp_path / "home",
        source="binance",
        start_date=date(2024, 1, 1),
        exchange_rest_url="http://127.0.0.1:9",
        **kafka,
    )
    for variable, value in settings.environment().items():
        monkeypatch.setenv(variable, value)
    get_settings.cache_clear()
    with start_platform(settings, [KAFKA]) if name == "spot" else nullcontext():
        yield settings, json.loads((OLD_LAKES / f"{name}-2026-11.json").read_text())


def present(settings: Settings, table: str) -> str:
    """Return the present name of an old table: those of a Spot home are renamed."""
    return table.replace("futures", settings.venue.family)


def rows(settings: Settings, table: str) -> list[dict[str, Any]]:
    sql = f"SELECT * FROM cryptolake.{present(settings, table)} ORDER BY {ORDERS[table]}"
    found = run_sql(settings, sql).to_pylist()
    return [{name: plain(value) for name, value in row.items() if name != "updated_at"} for row in found]


def stamps(settings: Settings, table: str) -> list[tuple[Any, ...]]:
    """Return key and `updated_at` of each row."""
    found = get_catalog(settings).load_table(table).scan().to_arrow().to_pylist()
    names = (*ORDERS[table.replace(settings.venue.family, "futures")].split(", "), "updated_at")
    return sorted(tuple(row[name] for name in names) for row in found)


def files(settings: Settings, table: str) -> dict[str, str]:
    """Return the content hash of each data file."""
    tasks = get_catalog(settings).load_table(table).scan().plan_files()
    paths = [local_path(task.file.file_path) for task in tasks]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}


def plain(value: Any) -> Any:
    """Return a value as in the recorded rows."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in (*LATER_COLUMNS, *names)}


def test_old_lake_keeps_its_rows_and_gains_the_current_columns(
    old_lake: tuple[Settings, dict[str, Any]],
) -> None:
    settings, recorded = old_lake
    written = {table: stamps(settings, table) for table in ORDERS}
    bronze = files(settings, "bronze.futures_trades")
    assert f"applied {MIGRATIONS[0]}" in bootstrap(settings)
    assert bootstrap(settings) == [], "a second bootstrap changes nothing"
    for table in ORDERS:
        found = rows(settings, table)
        assert [without(row) for row in found] == recorded[table]
        assert {row["trades_dropped"] for row in found} == {None}
        for row in found:
            assert row["exchange"] == venue_of(row["symbol"], settings.venue.family).exchange
        assert stamps(settings, present(settings, table)) == written[table]
    assert files(settings, present(settings, "bronze.futures_trades")) == bronze, "no file of Bronze is rewritten"
    for table in ("bronze.futures_trades", "bronze.futures_trades_rejected", "silver.futures_trades_quarantine"):
        (count,) = run_sql(settings, f"SELECT count(*) AS n FROM cryptolake.{present(settings, table)}").to_pylist()
        assert count["n"] == recorded[table]
    coverage = read_coverage(settings)
    assert len(coverage) == recorded["ops.stream_coverage"]
    assert {row.evidence for row in coverage} == {None}


def killed_bootstrap(moment: str) -> int:
    return subprocess.run([sys.executable, "-c", KILLED_BOOTSTRAP, moment], check=False, timeout=120).returncode


@pytest.mark.nightly
@pytest.mark.parametrize("old_lake", ["usdm"], indirect=True)
def test_migration_killed_at_any_commit_resumes(old_lake: tuple[Settings, dict[str, Any]]) -> None:
    settings, recorded = old_lake
    assert killed_bootstrap("before") == -signal.SIGKILL
    kills = 0
    while (code := killed_bootstrap("after")) == -signal.SIGKILL:
        kills += 1
    assert code == 0
    assert kills > 10, "a commit per changed table and column, per rewritten table, and per schema number"
    schema = lake_schema(settings)
    assert schema is not None
    assert schema.pending == ()
    assert bootstrap(settings) == []
    for spec in TABLES:
        assert set(load_table(settings, spec).schema().column_names) == set(spec.column_names)
    assert [without(row) for row in rows(settings, "silver.futures_ohlcv_1m")] == recorded["silver.futures_ohlcv_1m"]


def test_rebuilt_bars_of_an_old_lake_are_identical(
    old_lake: tuple[Settings, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, recorded = old_lake
    bootstrap(settings)
    offsets = dict.fromkeys(range(9), 10**9)
    monkeypatch.setattr("cryptolake_assets.transform.load_inputs.committed_offsets", lambda *_: offsets)
    engine = DuckDBEngine(settings)
    assert [candidate.passed for candidate in rebuild(settings, engine, HOUR, HOUR + timedelta(hours=1))] == [True]
    refresh_day(settings, engine, HOUR.date())
    for table in ORDERS:
        found = rows(settings, table)
        assert [without(row, "is_complete") for row in found] == [
            without(row, "is_complete") for row in recorded[table]
        ]
    dropped = {row["trades_dropped"] for row in rows(settings, "silver.futures_ohlcv_1m")}
    # Rows of other hours were not rebuilt; USD-M has a trade with quantity 0.
    assert dropped == ({None, 0, 1} if settings.market is Market.USD_M else {0})
    assert {row["is_complete"] for row in rows(settings, "silver.futures_ohlcv_1m") if row["trades_dropped"]} <= {False}
