"""Interaction with the dashboard: sorted tables, downloads, navigation, phone screens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from playwright.sync_api import Browser

from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.api import FUTURES_EXCHANGE, Api, append, bar, make_marts, put, serving
from cryptolake_tests.support.browser import chromium
from cryptolake_tests.support.pages import View, dashboard, view

FIRST = datetime(2025, 1, 30, tzinfo=UTC)
LOG_RETURNS = (None, -0.0123456789012345, 0.05, -1e-10, 1e-10, -0.5, 0.0)
"""By day. As text, 0.05 sorts before 1e-10, and -1e-10 before -0.5."""
LOG_RETURN = 12
"""Position of the column in the table of days."""


def days(count: int) -> list[dict[str, Any]]:
    prices = dict.fromkeys(("open", "high", "low", "close", "vwap", "total_volume", "price_range"), Decimal(7))
    return [
        {
            "exchange": FUTURES_EXCHANGE,
            "symbol": "BTCUSDT",
            "trade_date": (FIRST + timedelta(days=number)).date(),
            **prices,
            "trades": 3,
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=tmp_path_factory.mktemp("tables") / "own home")
    bootstrap(settings)
    of_days = days(len(LOG_RETURNS))
    last = FIRST + timedelta(days=len(LOG_RETURNS) - 1)
    put(settings, [bar("BTCUSDT", last + timedelta(minutes=number)) for number in range(3)])
    append(settings, FUTURES.daily, [{**day, "updated_at": FIRST} for day in of_days])
    make_marts(settings)
    returns = get_catalog(settings).load_table(("marts", "daily_returns"))
    rows = [
        {**day, "log_return": log_return, "drawdown": Decimal(0)}
        for day, log_return in zip(of_days, LOG_RETURNS, strict=True)
    ]
    returns.append(pa.Table.from_pylist(rows, schema=returns.schema().as_arrow()))
    return settings


@pytest.fixture(scope="module")
def api(lake: Settings) -> Iterator[Api]:
    with serving(lake) as made:
        yield made


@pytest.fixture(scope="module")
def url(lake: Settings, api: Api) -> Iterator[str]:
    with dashboard(lake, api.url, lake.home / "dashboard.log") as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[View]:
    with view(browser, url) as shown:
        yield shown


def number(text: str) -> float | str:
    """Parse a cell: its accessible text may have an exponent where the painted text has none."""
    try:
        return float(text)
    except ValueError:
        return text


def read_column(shown: View, column: int) -> list[float | str]:
    """Return the non-empty cells of a column."""
    cells = [shown.cell("daily", column, row) for row in range(len(LOG_RETURNS))]
    return [number(cell) for cell in cells if cell]


@pytest.mark.parametrize(
    ("heading", "column", "in_order"),
    [
        (
            "Log return",
            LOG_RETURN,
            [
                "-0.5000000000000000",
                "-0.0123456789012345",
                "-0.0000000001000000",
                "0.0000000000000000",
                "0.0000000001000000",
                "0.0500000000000000",
            ],
        ),
        ("Day (UTC)", 0, [str(day["trade_date"]) for day in days(len(LOG_RETURNS))]),
    ],
)
def test_table_sorts_by_number_and_shows_every_digit(
    browser: Browser, url: str, heading: str, column: int, in_order: list[str]
) -> None:
    with view(browser, url, width=2400) as shown:
        shown.open("/daily?symbol=BTCUSDT")
        shown.has_cell("daily", 0, 0, str(days(len(LOG_RETURNS))[-1]["trade_date"]))
        assert set(in_order) <= shown.painted()
        shown.sort("daily", heading)
        assert read_column(shown, column) == [number(text) for text in in_order]
        shown.sort("daily", heading)
        assert read_column(shown, column) == [number(text) for text in in_order[::-1]]


def test_failed_download_shows_its_error(browser: Browser, tmp_path: Any) -> None:
    lake = load_settings(home=tmp_path / "home without marts")
    bootstrap(lake)
    put(lake, [bar("BTCUSDT", FIRST)])
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        shown.open("/?symbol=BTCUSDT&timeframe=1h")
        shown.shows("No 1h bars yet.")
        detail = api.get("/ohlcv/1h?symbol=BTCUSDT").json()["detail"]
        reason = detail.partition(" `")[0]  # the rest is rendered as code
        assert shown.page.get_by_text(reason).count() == 0
        shown.page.get_by_role("button", name="CSV", exact=True).click()
        shown.shows(reason)
        make_marts(lake)
        api.refresh()
        with shown.page.expect_download():
            shown.page.get_by_role("button", name="CSV", exact=True).click()
        shown.page.get_by_text(reason).first.wait_for(state="detached")


def test_link_of_the_current_page_is_marked(page: View) -> None:
    page.open("/?symbol=BTCUSDT")
    links = page.page.locator(".st-key-navigation a")
    for title in ("Market", "Daily", "Quality", "Operations", "Market"):
        links.filter(has_text=title).click()
        page.page.wait_for_selector(f".st-key-navigation a[aria-current=page]:has-text('{title}')")
        assert page.page.locator("a[aria-current]").count() == 1


@pytest.mark.parametrize("width", [320, 390])
def test_every_option_is_visible_on_a_phone(browser: Browser, url: str, width: int) -> None:
    with view(browser, url, width=width, height=844) as shown:
        for path in ("/?symbol=BTCUSDT", "/daily?symbol=BTCUSDT"):
            shown.open(path)
            options = shown.page.get_by_test_id("stButtonGroup").get_by_role("radio")
            options.last.wait_for()
            for option in options.all():
                box = option.bounding_box()
                assert box is not None
                assert box["x"] >= 0, option.inner_text()
                assert box["x"] + box["width"] <= width, option.inner_text()
