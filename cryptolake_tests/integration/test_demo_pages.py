"""The demo in the dashboard: the full platform on the shipped capture, in a real Chromium.

Takes the screenshots of the documentation: `make pictures` writes them to docs/images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, FloatRect

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
"""Minutes of each symbol in the shipped capture, including the partial first and last one."""
PICTURES = os.environ.get("CRYPTOLAKE_PICTURES", "")
MAIN_PATH = (
    *("bronze/futures_trades", "bronze/futures_trades_archive", "bronze/futures_klines_1m", "silver/futures_ohlcv_1m"),
    *("gold/futures_daily_stats", "marts/ohlcv_1h", "marts/ohlcv_1d", "marts/daily_returns"),
    *("marts/volume_profile_hourly", "marts/market_overview"),
)
DOCUMENTED = ("dashboard-market", "dashboard-quality", "dagster-graph")
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


def picture(shown: View, name: str, directory: Path, clip: FloatRect | None = None) -> None:
    """Save a screenshot; those that the documents show go to `CRYPTOLAKE_PICTURES`, if that is set."""
    path = (Path(PICTURES) if PICTURES and name in DOCUMENTED else directory) / f"{name}.png"
    shown.page.mouse.move(2, 2)
    shown.page.screenshot(path=path, clip=clip)
    assert path.stat().st_size > 10_000


def plain(number: str) -> str:
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def bars(api: httpx.Client, symbol: str, timeframe: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/ohlcv/{timeframe}", params={"symbol": symbol, "order": "desc"}).json()[
        "bars"
    ]
    return found


def assert_table_shows(shown: View, expected: list[dict[str, Any]]) -> None:
    """Every number of the table is the API's, digit by digit, except for separators and trailing zeros."""
    for number, bar in enumerate(expected):
        opened = bar["window_start"].replace("T", " ")[:16]
        figures = [plain(str(bar[name])) for name in COLUMNS]
        texts = [opened, *figures, bar["state"]]
        shown.has_row("bars", number, texts, plain)


def test_market_draws_the_bars_and_its_table_shows_the_apis_numbers(
    page: View, api: httpx.Client, tmp_path: Path
) -> None:
    page.open("/?symbol=BTCUSDT")
    page.drawn(bars=BARS)
    expected = bars(api, "BTCUSDT", "1m")
    assert len(expected) == BARS
    assert_table_shows(page, expected)
    assert page.last_bar()[4] == plain(expected[0]["close"])
    picture(page, "dashboard-market", tmp_path)


def test_symbol_and_timeframe_can_be_switched(page: View, api: httpx.Client) -> None:
    page.open("/?symbol=BTCUSDT")
    page.drawn(bars=BARS)
    page.choose_symbol("ETHUSDT")
    page.page.wait_for_selector('.st-key-candles .chart[data-about^="binance_futures/ETHUSDT/1m"]')
    for timeframe in ("5m", "1h", "1d"):
        page.choose(timeframe)
        page.page.wait_for_selector(f'.st-key-candles .chart[data-about^="binance_futures/ETHUSDT/{timeframe}"]')
        expected = bars(api, "ETHUSDT", timeframe)
        page.drawn(bars=len(expected))
        assert_table_shows(page, expected)


def sentiment(api: httpx.Client) -> list[dict[str, Any]]:
    """Return the index by day, newest first."""
    found: list[dict[str, Any]] = api.get("/sentiment", params={"order": "desc"}).json()["days"]
    return found


def test_daily_shows_the_days_of_gold(page: View, api: httpx.Client, tmp_path: Path) -> None:
    page.page.set_viewport_size({"width": 1280, "height": 1500})
    # The schedule requests the index from the replay exchange within minutes.
    wait_for(lambda: bool(sentiment(api)), 240)
    page.open("/daily?symbol=BTCUSDT")
    metric = page.page.locator("[data-testid=stMetric]", has_text="Fear & Greed")
    metric.get_by_text(str(sentiment(api)[0]["value"]), exact=True).wait_for()
    page.shows("Daily statistics")
    days = api.get("/stats/daily", params={"symbol": "BTCUSDT", "order": "desc"}).json()["days"]
    assert {day["trade_date"] for day in days} == {"2024-07-18", "2024-07-19"}
    for number, day in enumerate(days):
        assert page.cell("daily", 0, number) == day["trade_date"]
        assert plain(page.cell("daily", 4, number)) == plain(day["close"])
    charts = page.page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg")
    charts.nth(5).wait_for()
    assert charts.count() == 6
    picture(page, "dashboard-daily", tmp_path)


def test_quality_shows_passed_checks_and_no_rejects(page: View, api: httpx.Client, tmp_path: Path) -> None:
    page.open("/quality")
    page.shows("14 of 14 bars, 2 hours")
    page.shows("No rejected frames.")
    page.shows("No quarantined trades.")
    checks = api.get("/quality/checks").json()["checks"]
    passed = sum(check["result"] == "passed" for check in checks)
    page.page.locator("[data-testid=stMetric]", has_text="Checks passed").get_by_text(
        str(passed), exact=True
    ).wait_for()
    picture(page, "dashboard-quality", tmp_path)


def test_operations_lists_every_part(page: View, demo: Settings, tmp_path: Path) -> None:
    page.open("/operations")
    page.shows("All dependencies are up.")
    page.shows(f"{len(PARTS)} of {len(PARTS)}")
    names = [page.cell("parts", 1, number) for number in range(len(PARTS))]
    assert names == [part.name for part in PARTS]
    link = page.page.get_by_role("link", name="Asset graph")
    assert link.get_attribute("href") == f"http://127.0.0.1:{demo.dagster_port}/asset-groups"
    picture(page, "dashboard-operations", tmp_path)


def test_pages_fit_a_phone_in_the_dark_theme(browser: Browser, demo: Settings, tmp_path: Path) -> None:
    with view(browser, demo.dashboard_url, width=390, height=844, color_scheme="dark") as shown:
        shown.open("/?symbol=BTCUSDT")
        shown.drawn(bars=BARS)
        picture(shown, "dashboard-phone", tmp_path)
        for path in ("/daily", "/quality", "/operations"):
            shown.open(path)
            assert shown.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390


def test_dagster_draws_the_assets_of_the_main_path(browser: Browser, demo: Settings, tmp_path: Path) -> None:
    selection = quote(" or ".join(f'key:"{key}"' for key in MAIN_PATH), safe="")
    groups = quote(",".join(f"global@global:{name}" for name in ("bronze", "silver", "gold", "marts")))
    with view(browser, f"http://127.0.0.1:{demo.dagster_port}", width=2000, height=1300) as shown:
        shown.page.goto(f"{shown.url}/asset-groups~{selection}/?expanded={groups}")
        shown.page.get_by_text("Hide navigation").click()
        shown.page.locator('[aria-label="panel_show_right"]').first.click()
        for _ in range(8):  # until the graph fits
            shown.page.locator('[aria-label="zoom_out"]').first.click()
            shown.page.wait_for_timeout(700)  # Dagster animates each step
        for key in ("futures_trades", "futures_ohlcv_1m", "ohlcv_1h", "market_overview"):
            shown.page.get_by_text(key, exact=True).first.wait_for()
        picture(shown, "dagster-graph", tmp_path, clip={"x": 540, "y": 115, "width": 860, "height": 1090})
