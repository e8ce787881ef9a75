"""Lakes that an earlier release made: read as they were, brought to the present columns, and gone on with."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cryptolake_assets.exchange.venues import Market
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.settings import Settings, get_settings, load_settings
from cryptolake_assets.transform import refresh_gold
from cryptolake_assets.transform.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.refresh_silver import rebuild

LAKES = Path(__file__).parents[1] / "data" / "lakes"
PLACE = Path("/var/tmp/cryptolake-lake")
HOUR = datetime(2024, 7, 19, tzinfo=UTC)
TABLES = {
    "silver.futures_ohlcv_1m": "symbol, window_start",
    "gold.futures_daily_stats": "symbol, trade_date",
}
LATER_COLUMNS = ("trades_dropped",)


@pytest.fixture(params=["usdm", "spot"])
def old_lake(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Settings, dict[str, Any]]]:
    """Settings of an old lake, and what its release answered; the paths that its metadata holds lead to it."""
    name: str = request.param
    home = tmp_path / "home"
    with tarfile.open(LAKES / f"{name}-2026-11.tar.gz") as archive:
        archive.extractall(home, filter="data")
    with FileLock(f"{PLACE}.lock"):
        PLACE.mkdir(exist_ok=True)
        (PLACE / "home").unlink(missing_ok=True)
        (PLACE / "home").symlink_to(home)
        settings = load_settings(
            home=home,
            market=Market(name),
            source="binance",
            start_date=date(2024, 1, 1),
            exchange_rest_url="http://127.0.0.1:9",
            kafka_bootstrap_servers="127.0.0.1:9",
        )
        for variable, value in settings.environment().items():
            monkeypatch.setenv(variable, value)
        get_settings.cache_clear()
        try:
            yield settings, json.loads((LAKES / f"{name}-2026-11.json").read_text())
        finally:
            (PLACE / "home").unlink()


def rows(settings: Settings, table: str) -> list[dict[str, Any]]:
    found = run_sql(settings, f"SELECT * FROM cryptolake.{table} ORDER BY {TABLES[table]}").to_pylist()
    return [{name: plain(value) for name, value in row.items() if name != "updated_at"} for row in found]


def plain(value: Any) -> Any:
    """A value as the recorded answers have it."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in (*LATER_COLUMNS, *names)}


def test_old_lake_answers_as_it_did_and_gains_the_present_columns(
    old_lake: tuple[Settings, dict[str, Any]],
) -> None:
    settings, recorded = old_lake
    assert "cryptolake.silver.futures_ohlcv_1m" in bootstrap(settings)
    assert bootstrap(settings) == [], "the second time there is nothing to do"
    for table in TABLES:
        found = rows(settings, table)
        assert [without(row) for row in found] == recorded[table]
        assert {row["trades_dropped"] for row in found} == {None}
    for table in ("bronze.futures_trades", "bronze.futures_trades_rejected", "silver.futures_trades_quarantine"):
        (count,) = run_sql(settings, f"SELECT count(*) AS n FROM cryptolake.{table}").to_pylist()
        assert count["n"] == recorded[table]
    coverage = read_coverage(settings)
    assert len(coverage) == recorded["ops.stream_coverage"]
    assert {row.evidence for row in coverage} == {None}


def test_bars_of_an_old_lake_made_anew_are_the_same_digits(
    old_lake: tuple[Settings, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, recorded = old_lake
    bootstrap(settings)
    offsets = dict.fromkeys(range(9), 10**9)
    monkeypatch.setattr("cryptolake_assets.transform.context.committed_offsets", lambda _: offsets)
    engine = DuckDBEngine(settings)
    assert [candidate.passed for candidate in rebuild(settings, engine, HOUR, HOUR + timedelta(hours=1), "now")] == [
        True
    ]
    day = refresh_gold.prepare(settings, engine, HOUR.date())
    assert day.passed
    refresh_gold.commit(settings, day, "now")
    for table in TABLES:
        found = rows(settings, table)
        assert [without(row, "is_complete") for row in found] == [
            without(row, "is_complete") for row in recorded[table]
        ]
    dropped = {row["trades_dropped"] for row in rows(settings, "silver.futures_ohlcv_1m")}
    # The rows of other hours were not made anew; USD-M has a trade with quantity 0.
    assert dropped == ({None, 0, 1} if settings.market is Market.USD_M else {0})
    assert {row["is_complete"] for row in rows(settings, "silver.futures_ohlcv_1m") if row["trades_dropped"]} <= {False}
