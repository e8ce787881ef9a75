"""Capture directories of several markets: layout, tracked markets, one clock, days."""

from __future__ import annotations

import itertools
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.captures.market_of_capture import (
    MARKET_FILE,
    capture_directory,
    captured_markets,
    recorded_files,
)
from cryptolake_assets.captures.reader import read_market_frames, summarise
from cryptolake_assets.captures.tracked_symbols import (
    Subscriptions,
    default_end_date,
    default_start_date,
    extra_streams_in_use,
    resolve_subscriptions,
)
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, load_settings
from cryptolake_tests.support.captures import mark_price_frame, write_capture
from cryptolake_tests.support.sockets import NOON_MS, numbered_capture
from cryptolake_tests.support.three_markets import FRAMES, SYMBOLS, THREE_MARKETS, TRADES, copied

ALL = (Market.USD_M, Market.COIN_M, Market.SPOT)


def _settings(directory: Path, **overrides: Any) -> Settings:
    return load_settings(**{"replay_dir": directory, "start_date": None, "end_date": None} | overrides)


def test_replay_tracks_the_markets_of_its_capture_unless_a_market_is_set(tmp_path: Path) -> None:
    assert _settings(THREE_MARKETS).tracked_markets == ALL
    assert _settings(copied(tmp_path, Market.SPOT, Market.COIN_M)).tracked_markets == (Market.COIN_M, Market.SPOT)
    assert _settings(THREE_MARKETS, market="spot").tracked_markets == (Market.SPOT,)
    assert _settings(THREE_MARKETS, markets="spot,usdm").tracked_markets == (Market.SPOT, Market.USD_M)
    assert _settings(THREE_MARKETS, source="binance").tracked_markets == (Market.USD_M,)
    assert _settings(DEMO_CAPTURE_DIR).tracked_markets == (Market.USD_M,)


def test_child_processes_track_the_same_markets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _settings(THREE_MARKETS).environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings().tracked_markets == ALL


def test_each_market_has_its_own_captures() -> None:
    settings = _settings(THREE_MARKETS)
    assert captured_markets(THREE_MARKETS) == {market: THREE_MARKETS / market for market in ALL}
    for view in settings.each_market:
        summary = summarise(capture_directory(view))
        assert (summary.symbols, summary.frame_count) == ((SYMBOLS[view.market],), FRAMES[view.market])
        assert resolve_subscriptions(view) == Subscriptions((SYMBOLS[view.market],), "trade")
    assert default_start_date(settings) == default_end_date(settings) == date(2024, 8, 8)
    assert sum(TRADES.values()) < sum(FRAMES.values()), "the fixture has order-book frames, too"


def test_frames_of_all_markets_are_merged_by_receive_time() -> None:
    frames = list(read_market_frames(captured_markets(THREE_MARKETS)))
    times = [frame.receive_time_ns for _, frame in frames]
    assert times == sorted(times)
    assert {market: [one for one, _ in frames].count(market) for market in ALL} == FRAMES
    changes = sum(1 for (before, _), (after, _) in itertools.pairwise(frames) if before is not after)
    assert changes > 2_000, "the markets alternate"


def test_days_are_those_of_all_tracked_markets(tmp_path: Path) -> None:
    copied(tmp_path, Market.SPOT)
    numbered_capture(tmp_path / "usdm", 2, 1)  # 2023-11-15
    both = _settings(tmp_path, home=tmp_path / "home")
    both.run_dir.mkdir(parents=True)
    assert (default_start_date(both), default_end_date(both)) == (date(2023, 11, 15), date(2024, 8, 8))
    spot = _settings(tmp_path, home=tmp_path / "home", market="spot")
    assert default_start_date(spot) == date(2024, 8, 8)
    usd_m = _settings(tmp_path, home=tmp_path / "home", market="usdm")
    assert default_end_date(usd_m) == date(2023, 11, 15), "the cached last day is that of other markets"


@pytest.mark.parametrize(
    ("captured", "overrides", "missing"),
    [
        ((Market.SPOT, Market.COIN_M), {"markets": "spot,usdm"}, "Binance USD-M futures"),
        ((Market.SPOT, Market.COIN_M), {"market": "usdm"}, "Binance USD-M futures"),
    ],
)
def test_missing_market_raises_an_error_with_the_captured_ones(
    tmp_path: Path, captured: tuple[Market, ...], overrides: dict[str, str], missing: str
) -> None:
    settings = _settings(copied(tmp_path, *captured), **overrides).of_market(Market.USD_M)
    message = (
        f"has captures of Binance COIN-M futures and Binance Spot, but not of {missing}. Set CRYPTOLAKE_MARKETS to "
        "coinm,spot, or CRYPTOLAKE_REPLAY_DIR"
    )
    with pytest.raises(CaptureError, match=message):
        resolve_subscriptions(settings)
    assert default_start_date(settings) == date(2024, 8, 8), "the definitions load"


def test_plain_directory_lacks_the_other_tracked_markets() -> None:
    settings = _settings(DEMO_CAPTURE_DIR, markets="usdm,spot")
    assert resolve_subscriptions(settings).symbols == ("ETHUSDT", "BTCUSDT")
    with pytest.raises(CaptureError, match=r"captures of Binance USD-M futures, but not of Binance Spot\. Set .* usdm"):
        resolve_subscriptions(settings.of_market(Market.SPOT))


def test_market_directories_without_captures_do_not_count(tmp_path: Path) -> None:
    numbered_capture(tmp_path, 1, 1)
    (tmp_path / "spot").mkdir()
    (tmp_path / "usdm").mkdir()
    (tmp_path / "usdm" / "trade.ndjson.gz.part").touch()
    assert captured_markets(tmp_path) == {Market.USD_M: tmp_path}
    assert _settings(tmp_path).markets == ()


def test_ambiguous_markets_raise_an_error(tmp_path: Path) -> None:
    copied(tmp_path, Market.SPOT)
    (tmp_path / "spot" / MARKET_FILE).write_text("usdm")
    with pytest.raises(CaptureError, match=r"names the market usdm, not spot\. Correct the file"):
        captured_markets(tmp_path)
    (tmp_path / "spot" / MARKET_FILE).write_text("spot\n")
    assert captured_markets(tmp_path) == {Market.SPOT: tmp_path / "spot"}
    numbered_capture(tmp_path, 1, 1)
    with pytest.raises(CaptureError, match=r"captures and the market directories spot\. Move its captures"):
        captured_markets(tmp_path)


def test_extra_streams_are_those_of_usd_m(tmp_path: Path) -> None:
    copied(tmp_path, Market.SPOT)
    write_capture(tmp_path / "usdm" / "a.ndjson", [(NOON_MS * 10**6, mark_price_frame("BTCUSDT", NOON_MS))])
    assert [stream.name for stream in extra_streams_in_use(_settings(tmp_path))] == ["markPrice"]
    assert extra_streams_in_use(_settings(tmp_path, market="spot")) == ()
    shutil.rmtree(tmp_path / "usdm")
    assert extra_streams_in_use(_settings(tmp_path)) == ()


def test_recorded_responses_may_be_in_a_market_directory(tmp_path: Path) -> None:
    copied(tmp_path, Market.SPOT)
    for place in (tmp_path, tmp_path / "spot"):
        (place / f"funding_rate_{place.name}.json").write_text("[]")
    (tmp_path / "coinm").mkdir()
    (tmp_path / "coinm" / "funding_rate.json").write_text("[]")
    assert [path.parent for path in recorded_files(tmp_path, "funding_rate*.json")] == [tmp_path, tmp_path / "spot"]


def test_snapshot_line_stays_in_the_capture_but_is_no_event() -> None:
    frames = [frame.raw for _, frame in read_market_frames(captured_markets(THREE_MARKETS))]
    snapshots = [document for document in map(json.loads, frames) if "lastUpdateId" in document]
    assert len(snapshots) == 3
    names = {name for market in ALL for name in summarise(THREE_MARKETS / market).stream_names}
    assert names == {
        *(f"btcusdt@{kind}" for kind in ("trade", "bookTicker", "depth@0ms", "depth@100ms")),
        *(f"btcusd_perp@{kind}" for kind in ("trade", "bookTicker", "depth@0ms")),
    }
