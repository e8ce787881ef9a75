"""`cryptolake archive` on a platform of several markets: `--market` chooses, and rows show the exchange."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cryptolake_assets.binance.archive_files import ArchiveFile
from cryptolake_assets.cli import app
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.archives import aggregates, csv_text, write_zip
from cryptolake_tests.support.markets import spot_capture
from cryptolake_tests.support.served import ServedExchange

DAY = date(2024, 7, 18)
COMMAND = ["archive", "--symbol", "BTCUSDT", "--from", DAY.isoformat(), "--no-klines"]


def run(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*COMMAND, *options], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_market_chooses_the_archive_and_the_table(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served"
    spot_capture(served)
    day = aggregates(DAY, 20)
    # Spot files have an eighth column and no header.
    lines = [f"{row.line()},True" for row in day]
    write_zip(served, ArchiveFile("BTCUSDT", DAY, family=Family.SPOT), csv_text(lines, header=False))
    with ServedExchange(served) as url:
        for name, value in {
            **lake.model_copy(update={"exchange_rest_url": url, "archive_base_url": url}).environment(),
            "CRYPTOLAKE_MARKETS": "usdm,spot",
        }.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        code, output = run()
        assert code == 1
        assert "binance_futures " in output
        assert "missing" in output
        code, output = run("--market", "spot")
        assert code == 0, output
    assert "binance_spot" in output
    assert load_table(lake, FAMILY_TABLES[Family.SPOT].trades).scan().count() == len(day)
    assert load_table(lake, FUTURES.trades).scan().count() == 0
