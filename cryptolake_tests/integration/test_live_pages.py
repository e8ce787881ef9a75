"""The dashboard's chart moves with the trades, in a real Chromium.

Takes the animated picture of the documentation: `make pictures` writes it to docs/images.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import FloatRect

from cryptolake_assets.model.bar_state import BarState
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.browser import chromium
from cryptolake_tests.support.commands import cryptolake
from cryptolake_tests.support.pages import View, view
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.waiting import wait_for

pytestmark = pytest.mark.nightly
PICTURES = os.environ.get("CRYPTOLAKE_PICTURES", "")
START_TIMEOUT_S, MINUTE_TIMEOUT_S = 300, 120
STATE_COLUMN = 10  # of the table of bars
FRAME_S = 0.75  # between two frames, on the clock
SHOWN_MS = 150  # of a frame in the picture
WIDTH = 760  # of the picture, in pixels
COLORS = 48
CLIP: FloatRect = {"x": 64, "y": 220, "width": 1052, "height": 800}  # headline, chart and the table's first rows
SPEED = 2.0  # of the replay
BARS = 5  # before the picture begins
LEAST_BARS = 2  # that begin during the picture
LEAST_CLOSES = 5  # prices that the newest bar shows while it is open


@pytest.fixture(scope="module")
def replayed(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = settings_for(tmp_path_factory.mktemp("live-pages"), replay_speed=SPEED)
    with start_platform(settings):
        cryptolake(settings, "up", timeout_s=START_TIMEOUT_S)
        yield settings


@pytest.fixture(scope="module")
def page(replayed: Settings) -> Iterator[View]:
    with chromium() as browser, view(browser, replayed.dashboard_url, width=1180, height=1040) as shown:
        shown.open("/?symbol=BTCUSDT")
        shown.page.wait_for_selector(".st-key-candles .chart[data-drawn-ms]", timeout=START_TIMEOUT_S * 1_000)
        yield shown


def states(shown: View) -> dict[str, str]:
    """Return the state of the newest bars by their open time."""
    return {shown.cell("bars", 0, row): shown.cell("bars", STATE_COLUMN, row) for row in range(BARS)}


def test_the_newest_bar_moves_with_the_trades_and_becomes_final(page: View, tmp_path: Path) -> None:
    wait_for(lambda: page.number("bars") >= BARS, START_TIMEOUT_S)
    page.chart.press("Home")  # fit all bars
    frames: list[Image.Image] = []
    closes: dict[str, set[float]] = {}  # by open time of the newest bar
    shown: dict[str, str] = {}
    deadline_s = time.monotonic() + MINUTE_TIMEOUT_S
    while not (len(closes) > LEAST_BARS and shown.get(next(iter(closes))) == BarState.FINAL):
        assert time.monotonic() < deadline_s, (closes, shown)
        frames.append(Image.open(io.BytesIO(page.page.screenshot(clip=CLIP))))
        shown = states(page)
        closes.setdefault(next(iter(shown)), set()).add(page.last_bar()[4])
        page.page.wait_for_timeout(FRAME_S * 1_000)
    assert max(map(len, closes.values())) >= LEAST_CLOSES
    path = (Path(PICTURES) if PICTURES else tmp_path) / "dashboard-live.gif"
    small = [
        frame.resize((WIDTH, frame.height * WIDTH // frame.width)).quantize(COLORS, dither=Image.Dither.NONE)
        for frame in frames
    ]
    small[0].save(path, save_all=True, append_images=small[1:], duration=SHOWN_MS, loop=0, optimize=True)
    assert path.stat().st_size > 10_000
