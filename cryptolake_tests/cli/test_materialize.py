"""`cryptolake materialize` without a platform: rejected assets and partitions."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cryptolake_assets.cli import app
from cryptolake_assets.settings import get_settings

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_DAGSTER_PORT", "9")  # a platform may run on the default port
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["silver/futures_ohlcv_1"], "Did you mean silver/futures_ohlcv_1m?"),
        (["silver/futures_ohlcv_1m"], "argument --partition: silver/futures_ohlcv_1m requires a partition"),
        (["silver/futures_ohlcv_1m", "--partition", "2024-07-18"], "not in the format YYYY-MM-DD-HH:MM"),
        (["gold/futures_daily_stats", "--partition", "2999-12-31"], "is after the last partition"),
        (["gold/futures_daily_stats", "--partition", "1999-12-31"], "is before the first partition"),
        (["maintenance/compaction", "--partition", "2024-07-18"], "has no partitions. Omit --partition."),
    ],
)
def test_wrong_asset_or_partition_is_rejected_before_a_run(arguments: list[str], cause: str) -> None:
    result = RUNNER.invoke(app, ["materialize", *arguments])
    assert result.exit_code == 1
    assert cause in result.stderr
    assert not get_settings().home.exists(), "nothing was launched"


def test_no_wait_is_rejected_without_a_platform() -> None:
    partition = ["--partition", "2024-07-18-23:00"]
    result = RUNNER.invoke(app, ["materialize", "silver/futures_ohlcv_1m", *partition, "--no-wait"])
    assert result.exit_code == 1
    assert "Start it with `cryptolake up`" in result.stderr
