"""The output of the demo about its bars; integration/test_demo_pages.py runs the complete demo."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from cryptolake_assets.cli.demo import last_change, show_bars, unsettled_frames
from cryptolake_assets.producer.status_file import StreamCounts
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings
from cryptolake_tests.support.api import bar, put, starts
from cryptolake_tests.support.captures import shifted_capture
from cryptolake_tests.support.exchanges import ExchangeThread


def test_demo_reports_a_capture_without_official_klines(lake: Settings, tmp_path: Path) -> None:
    put(lake, [bar("SOLUSDT", start) for start in starts()[:2]])
    capture = shifted_capture(DEMO_CAPTURE_DIR, tmp_path / "capture", {"BTCUSDT": "SOLUSDT"}, 0, 1, "0.002")
    output = io.StringIO()
    with ExchangeThread(capture, clock_ms=int(starts()[-1].timestamp() * 1000)) as exchange:
        settings = lake.model_copy(update={"exchange_rest_url": exchange.url})
        show_bars(settings, Console(file=output, width=200))
    lines = output.getvalue().splitlines()
    assert len([line for line in lines if "SOLUSDT" in line and "no official bar" in line]) == 2
    assert lines[-1] == "The capture has no official klines"


def test_unsettled_frames_are_counted_by_stream() -> None:
    sent = {"aggTrade": 160, "markPrice@1s": 240, "forceOrder": 0}
    streams = {"aggTrade": StreamCounts(158, 1, 1), "markPrice": StreamCounts(200, 0, 0)}
    assert unsettled_frames(sent, streams) == {"markPrice@1s": 40}
    assert unsettled_frames(sent, {"aggTrade": StreamCounts(10, 0, 0)}) == {"aggTrade": 150, "markPrice@1s": 240}
    assert unsettled_frames(sent, {**streams, "markPrice": StreamCounts(0, 0, 240)}) == {}


def test_last_change_is_the_first_materialization_of_the_current_version() -> None:
    assert last_change([]) is None
    assert last_change([(9.0, "b"), (7.0, "b"), (5.0, "a"), (3.0, "b")]) == 7.0
    assert last_change([(9.0, "b")]) == 9.0
    assert last_change([(9.0, None), (7.0, None)]) == 7.0, "materializations of an earlier release have no version"
