"""The helpers that build test captures."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from cryptolake_assets.captures.reader import first_day, read_frames, read_klines, summarise
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import HostileFrame, joined_captures, shifted_capture, with_changed_trade


def test_shifted_capture_maps_symbols_days_ids_and_prices(tmp_path: Path) -> None:
    shifted_capture(DEMO_CAPTURE_DIR, tmp_path, {"BTCUSDT": "ADAUSDT"}, 30, 7, "0.001")
    summary, source = summarise(tmp_path), summarise(DEMO_CAPTURE_DIR)
    assert (summary.symbols, summary.frame_count) == (("ADAUSDT",), 10_701)
    assert first_day(tmp_path) == date(2024, 8, 17)
    assert summary.last_event_time_ms == source.last_event_time_ms + 30 * 86_400_000
    before = json.loads(next(f.raw for f in read_frames(DEMO_CAPTURE_DIR) if "BTCUSDT" in f.raw))
    after = json.loads(next(read_frames(tmp_path)).raw)
    assert after["stream"] == "adausdt@trade"
    assert after["data"]["t"] == before["data"]["t"] + 7
    assert Decimal(after["data"]["p"]) == Decimal(before["data"]["p"]) / 1_000
    assert list(after["data"]) == list(before["data"])
    with pytest.raises(ValueError, match="more than 8 decimals"):
        shifted_capture(DEMO_CAPTURE_DIR, tmp_path, {"BTCUSDT": "ADAUSDT"}, 30, 7, "0.00000000001")


def test_changed_trade_makes_a_new_high(tmp_path: Path) -> None:
    changed = with_changed_trade(DEMO_CAPTURE_DIR, tmp_path)
    before, after = list(read_frames(DEMO_CAPTURE_DIR)), list(read_frames(tmp_path))
    (pair,) = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    data = json.loads(pair[1].raw)["data"]
    assert (data["s"], data["t"], data["p"]) == (changed.symbol, changed.trade_id, changed.price)
    kline = next(k for k in read_klines(tmp_path, changed.symbol, "1m") if k.open_time_ms == changed.window_start_ms)
    assert kline.open_time_ms <= data["T"] <= kline.close_time_ms
    assert Decimal(changed.price) > Decimal(kline.high)


def test_joined_captures_contain_all_frames_in_receive_order(tmp_path: Path) -> None:
    other = shifted_capture(DEMO_CAPTURE_DIR, tmp_path / "other", {"BTCUSDT": "SOLUSDT"}, 0, 7, "0.002")
    joined = list(read_frames(joined_captures(tmp_path / "joined", DEMO_CAPTURE_DIR, other)))
    parts = [*read_frames(DEMO_CAPTURE_DIR), *read_frames(other)]
    assert sorted(joined, key=repr) == sorted(parts, key=repr)
    times = [frame.receive_time_ns for frame in joined]
    assert times == sorted(times)
    assert {path.name for path in (tmp_path / "joined").glob("*.csv")} == {
        path.name for path in DEMO_CAPTURE_DIR.glob("*.csv")
    }


def test_hostile_capture_adds_hostile_frames_and_changes_no_other(
    hostile_capture: tuple[Path, list[HostileFrame]],
) -> None:
    directory, hostile = hostile_capture
    assert {frame.kind for frame in hostile if not frame.structural} == {
        "far_future",
        "long_past",
        "negative_price",
        "zero_qty",
    }
    assert len(hostile) == len({frame.kind for frame in hostile}) == 12
    inserted = {frame.raw for frame in hostile}
    recorded = [frame for frame in read_frames(directory) if frame.raw not in inserted]
    assert recorded == list(read_frames(DEMO_CAPTURE_DIR))
    assert read_klines(directory, "BTCUSDT", "1m") == read_klines(DEMO_CAPTURE_DIR, "BTCUSDT", "1m")
