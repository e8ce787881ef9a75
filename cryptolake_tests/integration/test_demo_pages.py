"""The demo as a person sees it: the whole platform on the shipped capture, its dashboard in a real Chromium.

Takes the pictures of the documentation: `make pictures` puts them into docs/images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from cryptolake_assets.platform.parts import PARTS
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.browser import chromium
from cryptolake_tests.support.commands import cryptolake
from cryptolake_tests.support.pages import View, view
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.waiting import wait_for

COMMAND_TIMEOUT_S = 420
pytestmark = pytest.mark.nightly
EQUAL_BARS = "14 of 14 complete bars equal"
BARS = 9
"""Minutes of each symbol in the shipped capture, the first and the last of them cut."""
PICTURES = os.environ.get("CRYPTOLAKE_PICTURES", "")
COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume", "vwap", "trades", "taker_buy_volume")


@pytest.fixture(scope="module")
def demo(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The platform after `make demo` and `make dbt`."""
    settings = settings_for(tmp_path_factory.mktemp("demo"))
    # `cryptolake demo` starts the parts itself.
    with start_platform(settings):
        shown = cryptolake(settings, "demo", timeout_s=COMMAND_TIMEOUT_S)
        assert settings.dashboard_url in shown
        assert EQUAL_BARS in shown
        cryptolake(settings, "dbt", "build", timeout_s=COMMAND_TIMEOUT_S)
        yield settings


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def api(demo: Settings) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.api_url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def page(browser: Browser, demo: Settings) -> Iterator[View]:
    with view(browser, demo.dashboard_url) as shown:
        yield shown


def picture(shown: View, name: str, directory: Path) -> None:
    """Into docs/images when asked for, else to where the test leaves its files."""
    path = (Path(PICTURES) if PICTURES else directory) / f"{name}.png"
    shown.page.mouse.move(2, 2)
    shown.page.screenshot(path=path)
    assert path.stat().st_size > 10_000


def plain(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def bars(api: httpx.Client, symbol: str, timeframe: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/ohlcv/{timeframe}", params={"symbol": symbol, "order": "desc"}).json()[
        "bars"
    ]
    return found


def assert_table_is(shown: View, wanted: list[dict[str, Any]]) -> None:
    """Every number of the table is the API's, digit by digit; zeros behind the last one apart."""
    for number, bar in enumerate(wanted):
        opened = bar["window_start"].replace("T", " ").removesuffix("Z")
        figures = [plain(str(bar[name])) for name in COLUMNS]
        texts = [opened, *figures, "yes" if bar["is_complete"] else "no"]
        shown.has_row("bars", number, texts, plain)


def test_the_market_is_drawn_and_its_table_is_the_apis(page: View, api: httpx.Client, tmp_path: Path) -> None:
    page.open("/?symbol=BTCUSDT")
    page.drawn(bars=BARS)
    wanted = bars(api, "BTCUSDT", "1m")
    assert len(wanted) == BARS
    assert_table_is(page, wanted)
    assert page.last_bar()[4] == plain(wanted[0]["close"])
    picture(page, "dashboard-market", tmp_path)


def test_switching_symbol_and_timeframe(page: View, api: httpx.Client) -> None:
    page.open("/?symbol=BTCUSDT")
    page.drawn(bars=BARS)
    page.choose_symbol("ETHUSDT")
    page.page.wait_for_selector('.st-key-candles .chart[data-about^="ETHUSDT/1m"]')
    for timeframe in ("5m", "1h", "1d"):
        page.choose(timeframe)
        page.page.wait_for_selector(f'.st-key-candles .chart[data-about^="ETHUSDT/{timeframe}"]')
        wanted = bars(api, "ETHUSDT", timeframe)
        page.drawn(bars=len(wanted))
        assert_table_is(page, wanted)


def sentiment(api: httpx.Client) -> list[dict[str, Any]]:
    """Newest first."""
    found: list[dict[str, Any]] = api.get("/sentiment", params={"order": "desc"}).json()["days"]
    return found


def test_the_days(page: View, api: httpx.Client, tmp_path: Path) -> None:
    page.page.set_viewport_size({"width": 1280, "height": 1500})
    # The schedule asks the replay exchange within minutes.
    wait_for(lambda: bool(sentiment(api)), 240)
    page.open("/daily?symbol=BTCUSDT")
    metric = page.page.locator("[data-testid=stMetric]", has_text="Fear & Greed")
    metric.get_by_text(str(sentiment(api)[0]["value"]), exact=True).wait_for()
    page.says("Daily statistics")
    days = api.get("/stats/daily", params={"symbol": "BTCUSDT", "order": "desc"}).json()["days"]
    assert {day["trade_date"] for day in days} == {"2024-07-18", "2024-07-19"}
    for number, day in enumerate(days):
        assert page.cell("daily", 0, number) == day["trade_date"]
        assert plain(page.cell("daily", 4, number)) == plain(day["close"])
    charts = page.page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg")
    charts.nth(5).wait_for()
    assert charts.count() == 6
    picture(page, "dashboard-daily", tmp_path)


def test_quality(page: View, api: httpx.Client, tmp_path: Path) -> None:
    page.open("/quality")
    page.says("14 of 14 bars, 2 hours")
    page.says("No frame was refused.")
    page.says("No trade broke a rule.")
    checks = api.get("/quality/checks").json()["checks"]
    passed = sum(check["result"] == "passed" for check in checks)
    page.page.locator("[data-testid=stMetric]", has_text="Checks passed").get_by_text(
        str(passed), exact=True
    ).wait_for()
    picture(page, "dashboard-quality", tmp_path)


def test_operations(page: View, demo: Settings, tmp_path: Path) -> None:
    page.open("/operations")
    page.says("Every dependency answers.")
    page.says(f"{len(PARTS)} of {len(PARTS)}")
    names = [page.cell("parts", 1, number) for number in range(len(PARTS))]
    assert names == [part.name for part in PARTS]
    link = page.page.get_by_role("link", name="Asset graph")
    assert link.get_attribute("href") == f"http://127.0.0.1:{demo.dagster_port}/asset-groups"
    picture(page, "dashboard-operations", tmp_path)


def test_on_a_phone_in_the_dark(browser: Browser, demo: Settings, tmp_path: Path) -> None:
    with view(browser, demo.dashboard_url, width=390, height=844, color_scheme="dark") as shown:
        shown.open("/?symbol=BTCUSDT")
        shown.drawn(bars=BARS)
        picture(shown, "dashboard-phone", tmp_path)
        for path in ("/daily", "/quality", "/operations"):
            shown.open(path)
            assert shown.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
