"""`cryptolake record` against a replay exchange on a socket."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.cli.app import app
from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, get_settings
from cryptolake_tests.support.served import ServedExchange
from cryptolake_tests.support.three_markets import SYMBOLS, THREE_MARKETS, copied

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _fresh_settings() -> None:
    get_settings.cache_clear()


def _record(monkeypatch: pytest.MonkeyPatch, source: Path, directory: Path, served: Path, **settings: str) -> str:
    """Record for one second; return the output. The exchange may serve other captures than the settings name."""
    with ServedExchange(served) as url:
        values = {"REPLAY_DIR": str(source), "EXCHANGE_WS_URL": url.replace("http", "ws"), "EXCHANGE_REST_URL": url}
        for name, value in (values | settings).items():
            monkeypatch.setenv(f"CRYPTOLAKE_{name}", value)
        result = RUNNER.invoke(app, ["record", str(directory), "--seconds", "1"])
    return f"exit {result.exit_code}: {result.stderr}"


def test_record_writes_a_directory_for_each_market(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = _record(monkeypatch, THREE_MARKETS, tmp_path / "new", THREE_MARKETS)
    assert shown.startswith("exit 0")
    for market in Market:
        frames = list(read_frames(tmp_path / "new" / market))
        assert frames
        assert all(f'"{SYMBOLS[market].lower()}@trade"' in frame.raw for frame in frames)
        assert f"{len(frames):,} frames in 1 files" in shown
    assert f"cryptolake replay {tmp_path / 'new'}" in shown


def test_record_of_one_market_writes_to_the_directory_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = _record(monkeypatch, DEMO_CAPTURE_DIR, tmp_path / "new", DEMO_CAPTURE_DIR)
    assert shown.startswith("exit 0")
    assert list(read_frames(tmp_path / "new"))


def test_market_without_frames_ends_the_recording_with_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served = copied(tmp_path / "served", Market.USD_M)
    shown = _record(monkeypatch, THREE_MARKETS, tmp_path / "new", served, MARKETS="usdm,spot")
    assert shown.startswith("exit 1")
    assert re.search(r"no frames received from ws://[0-9.:]+/spot\.", shown)
    assert list(read_frames(tmp_path / "new" / "usdm"))
