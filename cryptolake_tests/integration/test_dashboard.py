"""The dashboard in a real Chromium, over a real API on a lake of generated bars."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import dagster as dg
import pytest
from playwright.sync_api import Browser

from cryptolake_assets.api.api_keys import Scope, create_key
from cryptolake_assets.dashboard.lake import MAX_ROWS
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.model.derivatives_tables import SILVER_FUNDING
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.source_tables import SILVER_FEAR_GREED
from cryptolake_assets.quality.bar_checks import OFFICIAL_KLINES
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support import checked_assets
from cryptolake_tests.support.api import FUTURES_EXCHANGE, SPOT_EXCHANGE, Api, append, bar, make_marts, put, serving
from cryptolake_tests.support.browser import chromium
from cryptolake_tests.support.checked_assets import BLOCKING, run
from cryptolake_tests.support.dagster_pages import webserver
from cryptolake_tests.support.pages import View, dashboard, view
from cryptolake_tests.support.servers import free_port

FIRST = datetime(2025, 1, 30, tzinfo=UTC)
BAR_COUNT = 40
MINUTE = timedelta(minutes=1)
TINY = Decimal("0.00000012")
FUTURES_TINY = {"exchange": FUTURES_EXCHANGE, "symbol": "TINYUSDT"}


def minutes(count: int, first: datetime = FIRST) -> list[datetime]:
    return [first + number * MINUTE for number in range(count)]


def rows_of(starts: list[datetime], symbol: str = "BTCUSDT") -> list[dict[str, Any]]:
    return [bar(symbol, start, low=Decimal(1), high=Decimal(2000)) for start in starts]


def publish(lake: Settings, symbol: str, starts: list[datetime]) -> None:
    """Publish bars per day, as Silver runs do."""
    days: dict[object, list[datetime]] = {}
    for start in starts:
        days.setdefault(start.date(), []).append(start)
    for of_day in days.values():
        put(lake, rows_of(of_day, symbol))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=tmp_path_factory.mktemp("dashboard") / "own home")
    bootstrap(settings)
    publish(settings, "BTCUSDT", minutes(BAR_COUNT))
    put(settings, [bar("TINYUSDT", start, open=TINY, close=TINY, high=TINY, low=TINY) for start in minutes(BAR_COUNT)])
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


def query(shown: View) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(shown.page.url).query).items()}


def test_table_shows_every_digit_of_the_api(page: View, api: Api) -> None:
    page.open("/?symbol=TINYUSDT")
    page.drawn(bars=BAR_COUNT)
    newest = api.get("/ohlcv/1m", params={"symbol": "TINYUSDT", "order": "desc", "limit": 1}).json()["bars"][0]
    row = page.row("bars", 0, 11)
    assert row[0] == newest["window_start"].replace("T", " ")[:16]
    assert row[1:5] == [newest[name] for name in ("open", "high", "low", "close")] == ["0.00000012"] * 4
    assert row[5:7] == [newest["volume"], newest["quote_volume"]] == ["0.00000001", "0.0000000000000001"]
    assert row[8] == str(newest["trades"])
    assert page.last_bar()[1:6] == ["0.00000012"] * 4 + ["0.00000001"]
    assert "0.00000012" in page.page.locator(".st-key-candles .legend").inner_text()


def test_url_has_symbol_and_range_and_other_pages_keep_them(page: View, browser: Browser, url: str) -> None:
    page.open()
    page.drawn(bars=BAR_COUNT)
    page.choose_symbol("TINYUSDT")
    page.page.wait_for_selector('.st-key-candles .chart[data-about^="binance_futures/TINYUSDT/1m"]')
    page.choose("6h")
    page.page.wait_for_url("**range=6h*")
    assert query(page) == {**FUTURES_TINY, "range": "6h"}
    with view(browser, url) as shared:
        shared.open(page.page.url.removeprefix(url))
        shared.page.wait_for_selector('.st-key-candles .chart[data-about^="binance_futures/TINYUSDT/1m"]')
        assert query(shared) == query(page)
    page.page.get_by_role("link", name="Daily").click()
    page.shows("No daily statistics of TINYUSDT yet")
    assert query(page)["symbol"] == "TINYUSDT"


def test_custom_range_of_the_url_is_shown(page: View) -> None:
    page.open("/?symbol=BTCUSDT&range=custom&from=2025-01-30T00:05&to=2025-01-30T00:07")
    page.drawn(bars=3)
    assert [page.cell("bars", 0, row)[11:16] for row in range(3)] == ["00:07", "00:06", "00:05"]


def test_url_has_both_ends_of_a_custom_range_until_another_is_chosen(page: View) -> None:
    page.open("/?symbol=BTCUSDT")
    page.drawn(bars=BAR_COUNT)
    page.choose("custom")
    page.page.wait_for_url("**to=2025-01-30T00*")
    ends = {"from": "2025-01-30T00:00", "to": "2025-01-30T00:39"}
    assert query(page) == {**FUTURES_TINY, "symbol": "BTCUSDT", "range": "custom", **ends}
    page.choose_symbol("TINYUSDT")
    page.page.wait_for_selector('.st-key-candles .chart[data-about^="binance_futures/TINYUSDT/1m/custom"]')
    assert query(page) == {**FUTURES_TINY, "range": "custom", **ends}
    page.choose("6h")
    page.page.wait_for_selector('.st-key-candles .chart[data-about="binance_futures/TINYUSDT/1m/6h"]')
    page.page.wait_for_url(lambda url: "from=" not in url)
    assert query(page) == {**FUTURES_TINY, "range": "6h"}


def test_selection_survives_navigation_to_other_pages_and_back(page: View) -> None:
    page.open("/?symbol=BTCUSDT&range=6h")
    page.drawn(bars=BAR_COUNT)
    page.choose_symbol("TINYUSDT")
    page.page.wait_for_selector('.st-key-candles .chart[data-about="binance_futures/TINYUSDT/1m/6h"]')
    page.page.go_back()
    page.page.wait_for_selector('.st-key-candles .chart[data-about="binance_futures/BTCUSDT/1m/6h"]')
    assert query(page)["symbol"] == "BTCUSDT"
    page.choose_symbol("TINYUSDT")
    page.page.wait_for_selector('.st-key-candles .chart[data-about="binance_futures/TINYUSDT/1m/6h"]')
    page.page.get_by_role("link", name="Daily").click()
    page.shows("No daily statistics of TINYUSDT yet")
    page.page.get_by_role("link", name="Operations").click()
    page.shows("Parts running")
    page.page.get_by_role("link", name="Market").click()
    page.page.wait_for_selector('.st-key-candles .chart[data-about="binance_futures/TINYUSDT/1m/6h"]')
    assert query(page) == {**FUTURES_TINY, "range": "6h"}
    page.page.wait_for_function("document.title == 'Market · CryptoLake'")


def test_invalid_url_parameters_are_reported(page: View) -> None:
    page.open("/?symbol=NOPE&range=custom&from=yesterday&to=2025-01-30T00:07")
    page.shows("Unknown symbol 'NOPE'")
    page.shows("is not a minute, such as")
    page.drawn(bars=8)
    page.open("/?symbol=tinyusdt&range=custom&from=2025-01-30T00:07&to=2025-01-30T00:05")
    page.shows("The range ends before it starts.")
    assert query(page)["symbol"] == "TINYUSDT"


def test_market_and_symbol_are_selectable_and_in_the_url(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "own home")
    bootstrap(lake)
    publish(lake, "BTCUSDT", minutes(3))
    publish(lake, "ETHUSDT", minutes(3))
    for symbol in ("BTCUSDT", "SOLUSDT"):
        put(lake, [{**row, "exchange": SPOT_EXCHANGE} for row in rows_of(minutes(5), symbol)])
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        for path, topic, bars in (
            ("/?symbol=BTCUSDT", (FUTURES_EXCHANGE, "BTCUSDT"), 3),
            ("/?symbol=SOLUSDT", (SPOT_EXCHANGE, "SOLUSDT"), 5),
            ("/?exchange=binance_spot&symbol=BTCUSDT", (SPOT_EXCHANGE, "BTCUSDT"), 5),
        ):
            shown.open(path)
            shown.drawn(bars=bars, about=f"{topic[0]}/{topic[1]}/1m/1d")
            assert query(shown) == dict(zip(("exchange", "symbol"), topic, strict=True))
        other = shown.page.locator("[data-testid=stMetric]", has_text="Binance USD-M futures close")
        other.wait_for(state="detached")  # it has no bar of this minute
        assert "Binance Spot · BTCUSDT" in shown.page.locator(".st-key-candles .legend").inner_text()
        shown.choose_market("Binance USD-M futures")
        shown.drawn(bars=3, about="binance_futures/BTCUSDT/1m/1d")  # the symbol stays
        other = shown.page.locator("[data-testid=stMetric]", has_text="Binance Spot close")
        other.get_by_text("+0.000%").wait_for()
        shown.choose_symbol("ETHUSDT")
        shown.drawn(bars=3, about="binance_futures/ETHUSDT/1m/1d")
        shown.choose_market("Binance Spot")
        shown.drawn(bars=5, about="binance_spot/BTCUSDT/1m/1d")  # Spot has no ETHUSDT
        shown.page.get_by_role("link", name="Daily").click()
        shown.shows("No daily statistics of BTCUSDT yet")
        assert query(shown)["exchange"] == SPOT_EXCHANGE
        shown.open("/?exchange=binance_spot&symbol=ETHUSDT")
        shown.shows("Unknown symbol 'ETHUSDT': showing BTCUSDT of Binance Spot")
        shown.open("/?exchange=other&symbol=SOLUSDT")
        shown.shows("Unknown market 'other': showing SOLUSDT of Binance Spot")


def test_missing_mart_of_a_timeframe_is_reported(page: View, lake: Settings, api: Api) -> None:
    page.open("/?symbol=BTCUSDT&timeframe=1h")
    page.shows("No 1h bars yet.")
    make_marts(lake)
    api.refresh()
    page.shows("No bars of BTCUSDT in this range.")


def test_download_has_every_bar_of_the_range(page: View, api: Api) -> None:
    page.open("/?symbol=BTCUSDT")
    page.drawn(bars=BAR_COUNT)
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="CSV", exact=True).click()
    expected = api.get("/ohlcv/1m", params={"symbol": "BTCUSDT", "format": "csv"}).content
    assert Path(download.value.path()).read_bytes() == expected
    assert download.value.suggested_filename == "binance_futures-BTCUSDT-1m.csv"
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="Parquet", exact=True).click()
    from pyarrow import parquet

    table = parquet.read_table(download.value.path())
    assert table.num_rows == BAR_COUNT
    assert table["volume"][0].as_py() == Decimal("0.00000001")


def test_chart_is_reachable_and_movable_by_keyboard(page: View) -> None:
    page.open("/?symbol=BTCUSDT")
    page.drawn(bars=BAR_COUNT)
    for _ in range(60):
        page.page.keyboard.press("Tab")
        if page.page.evaluate("document.activeElement.shadowRoot?.activeElement?.className") == "chart":
            break
    else:
        pytest.fail("the Tab key does not reach the chart")
    for key in ("ArrowLeft", "+"):
        before = page.attribute("from")
        page.page.keyboard.press(key)
        page.page.wait_for_selector(f'.st-key-candles .chart:not([data-from="{before}"])')
    assert "BTCUSDT" in (page.chart.get_attribute("aria-label") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phones_screen(browser: Browser, url: str, scheme: str) -> None:
    with view(browser, url, width=390, height=844, color_scheme=scheme) as shown:
        shown.open("/?symbol=BTCUSDT")
        shown.drawn(bars=BAR_COUNT)
        assert shown.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
        background = shown.page.evaluate(
            "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
        )
        light = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")[:3]) > 384
        assert light == (scheme == "light")


@pytest.mark.nightly
def test_zoom_is_kept_while_the_open_bar_changes(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "live home")
    bootstrap(lake)
    publish(lake, "BTCUSDT", minutes(BAR_COUNT))
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        shown.open("/?symbol=BTCUSDT")
        shown.drawn(bars=BAR_COUNT)
        for key in ("+", "ArrowLeft"):
            before = shown.attribute("from")
            shown.chart.press(key)
            shown.page.wait_for_selector(f'.st-key-candles .chart:not([data-from="{before}"])')
        zoomed = shown.number("from"), shown.number("to")
        assert zoomed[1] - zoomed[0] < BAR_COUNT
        *closed, last = minutes(BAR_COUNT)
        moved = bar("BTCUSDT", last, low=Decimal(1), high=Decimal(2000), close=Decimal(77))
        put(lake, [*rows_of(closed), moved])
        shown.page.wait_for_selector('.st-key-candles .chart[data-updates="1"]')
        assert shown.last_bar()[4] == "77"
        put(lake, [*rows_of(closed), moved, *rows_of([last + MINUTE])])
        shown.page.wait_for_selector('.st-key-candles .chart[data-updates="2"]')
        assert shown.attribute("bars") == str(BAR_COUNT + 1)
        assert shown.attribute("draws") == "1"
        assert (shown.number("from"), shown.number("to")) == zoomed
        shown.has_row("bars", 0, [f"{last + MINUTE:%Y-%m-%d %H:%M}"])


@pytest.mark.nightly
def test_ten_thousand_bars_are_drawn_in_less_than_two_seconds(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "large home")
    bootstrap(lake)
    publish(lake, "BTCUSDT", minutes(MAX_ROWS + 60))
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        shown.open("/?symbol=BTCUSDT&range=all")
        shown.drawn(bars=MAX_ROWS)
        shown.shows("the range has more bars")
        drawn_ms = shown.number("drawn-ms")
        assert 0 < drawn_ms < 2_000


def test_page_reports_an_api_that_is_down_and_recovers(browser: Browser, lake: Settings, tmp_path: Path) -> None:
    port = free_port()
    with dashboard(lake, f"http://127.0.0.1:{port}", tmp_path / "log") as url, view(browser, url) as shown:
        shown.open("/?symbol=BTCUSDT")
        shown.shows("The API does not respond")
        with serving(lake, port=port):
            shown.drawn(bars=BAR_COUNT)
        shown.shows("The API does not respond")
        assert (shown.attribute("bars"), shown.attribute("draws")) == (str(BAR_COUNT), "1"), "the chart stays meanwhile"
        with serving(lake, port=port):
            shown.page.get_by_text("The API does not respond").first.wait_for(state="detached")
            shown.drawn(bars=BAR_COUNT, draws=1)


@pytest.mark.nightly
def test_page_that_is_not_live_recovers(browser: Browser, lake: Settings, tmp_path: Path) -> None:
    port = free_port()
    with dashboard(lake, f"http://127.0.0.1:{port}", tmp_path / "log") as url, view(browser, url) as shown:
        with serving(lake, port=port):
            shown.open("/?symbol=BTCUSDT&live=false")
            shown.drawn(bars=BAR_COUNT)
        shown.choose("6h")
        shown.shows("The API does not respond")
        with serving(lake, port=port):
            shown.page.wait_for_selector('.st-key-candles .chart[data-about="binance_futures/BTCUSDT/1m/6h"]')


@pytest.mark.nightly
def test_open_page_continues_after_a_restart_of_the_dashboard(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "restarted home")
    bootstrap(lake)
    publish(lake, "BTCUSDT", minutes(BAR_COUNT))
    port = free_port()
    with serving(lake) as api, view(browser, f"http://127.0.0.1:{port}") as shown:
        with dashboard(lake, api.url, tmp_path / "log-1", port):
            shown.open("/?symbol=BTCUSDT")
            shown.drawn(bars=BAR_COUNT)
        put(lake, rows_of(minutes(BAR_COUNT + 2)))
        api.refresh()
        with dashboard(lake, api.url, tmp_path / "log-2", port):
            shown.drawn(bars=BAR_COUNT + 2)
            shown.has_row("bars", 0, [f"{minutes(BAR_COUNT + 2)[-1]:%Y-%m-%d %H:%M}"])


def test_response_of_another_server_is_reported(browser: Browser, lake: Settings, tmp_path: Path) -> None:
    with (
        dashboard(lake, "http://127.0.0.1:9", tmp_path / "other") as other,
        dashboard(lake, other, tmp_path / "log") as url,
        view(browser, url) as shown,
    ):
        shown.open("/?symbol=BTCUSDT")
        shown.shows("is not from CryptoLake's API")


def test_empty_lake_shows_the_next_step(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "empty home")
    bootstrap(lake)
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        for path in ("/", "/daily"):
            shown.open(path)
            shown.shows("No bars yet.")
        shown.open("/quality")
        shown.shows("No Silver or Gold runs yet.")
        shown.open("/")
        shown.shows("No bars yet.")
        publish(lake, "BTCUSDT", minutes(3))
        api.refresh()
        shown.drawn(bars=3)  # the open page shows them by itself


def test_fear_and_greed_is_drawn_once_available(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "sentiment home")
    bootstrap(lake)
    publish(lake, "BTCUSDT", minutes(3))
    prices = dict.fromkeys(("open", "high", "low", "close", "vwap", "total_volume", "price_range"), Decimal(7))
    day = {"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "trade_date": FIRST.date(), **prices}
    append(lake, FUTURES.daily, [{**day, "trades": 3, "updated_at": FIRST}])
    index = {"classification": "Greed", "updated_at": FIRST}
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        charts = shown.page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg")
        shown.open("/daily?symbol=BTCUSDT")
        shown.shows("No index of these days yet.")
        charts.nth(1).wait_for()  # price and volatility
        assert charts.count() == 2
        days = [FIRST.date() + timedelta(days=number) for number in (-1, 0, 1)]  # the last is after the newest bar
        append(lake, SILVER_FEAR_GREED, [{"index_date": of, "value": of.day, **index} for of in days])
        api.refresh()
        shown.open("/daily?symbol=BTCUSDT")
        shown.page.locator("[data-testid=stMetric]", has_text="Fear & Greed").get_by_text("30", exact=True).wait_for()
        charts.nth(2).wait_for()
        assert charts.count() == 3


def test_funding_is_drawn_once_available(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "funding home")
    bootstrap(lake)
    publish(lake, "BTCUSDT", minutes(3))
    prices = dict.fromkeys(("open", "high", "low", "close", "vwap", "total_volume", "price_range"), Decimal(7))
    day = {"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "trade_date": FIRST.date(), **prices}
    append(lake, FUTURES.daily, [{**day, "trades": 3, "updated_at": FIRST}])
    rate = {"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "funding_rate": Decimal("0.0001")}
    rates = [{**rate, "funding_time": FIRST + timedelta(hours=8 * number)} for number in range(-3, 6)]
    append(lake, SILVER_FUNDING, rates)
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        charts = shown.page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg")
        shown.open("/daily?symbol=BTCUSDT")
        shown.page.get_by_role("heading", name="Funding").wait_for()
        charts.nth(2).wait_for()  # price, volatility, funding
        assert charts.count() == 3


def test_quality_lists_every_difference_from_official_klines(browser: Browser, tmp_path: Path) -> None:
    lake = load_settings(home=tmp_path / "differing home", dagster_port=9)
    bootstrap(lake)
    row = {"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "window_start": FIRST, "field": "volume"}
    append(
        lake,
        FUTURES.kline_differences,
        [{**row, "ours": Decimal("1.5"), "official": Decimal("1.50000001"), "tolerated": False}],
    )
    with serving(lake) as api, dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
        shown.open("/quality")
        shown.shows("Check results are unavailable")
        assert shown.row("differences", 0, 7) == [
            *("Binance USD-M futures", "BTCUSDT", "2025-01-30 00:00", "volume", "1.5", "1.50000001", "no"),
        ]


def test_quality_separates_running_from_failed_checks_and_counts_all_hours(browser: Browser, tmp_path: Path) -> None:
    hours = ("2024-07-18-22:00", "2024-07-18-23:00", "2024-07-19-00:00")
    hold = threading.Event()
    with (
        dg.instance_for_test(temp_dir=str(tmp_path)) as instance,
        webserver(instance, Path(checked_assets.__file__), "DEFINITIONS") as port,
        serving(load_settings(home=tmp_path / "checked home", dagster_port=port)) as api,
        dashboard(api.reader.settings, api.url, tmp_path / "log") as url,
        view(browser, url) as shown,
        ThreadPoolExecutor(1) as pool,
    ):
        # In separate threads: this one has the browser's event loop.
        bad = pool.submit(run, instance, hours[0], agreeing=5).result()
        pool.submit(run, instance, hours[1]).result()
        running = pool.submit(run, instance, hours[2], passes=False, waits_for=hold)
        try:
            assert checked_assets.plan.reached.wait(60)
            shown.open("/quality")
            shown.shows("12 of 14 bars, 1 of 2 hours warned; 2024-07-18-22:00: 5 of 7 complete bars equal")
            shown.has_cell("checks", 0, 0, "▲ warned · running")
            assert shown.row("checks", 0, 4)[1:] == ["silver/made_up_bars", OFFICIAL_KLINES, "1 of 2 hours warned"]
            assert bad.run_id[:8] in shown.cell("checks", 4, 0)
            assert shown.row("checks", 1, 4) == [
                *("✓ passed · running", "silver/made_up_bars", BLOCKING, "2 hours"),
            ]
            assert [shown.cell("checks", 0, row) for row in (2, 3)] == ["○ not run"] * 2
        finally:
            hold.set()
        running.result()
        shown.has_cell("checks", 0, 0, "✗ failed")
        assert shown.cell("checks", 3, 0) == "1 of 3 hours failed"


def test_missing_api_key_is_reported(browser: Browser, lake: Settings, tmp_path: Path) -> None:
    key = create_key(lake, "dashboard", (Scope.READ, Scope.OPERATE))
    with serving(lake, api_require_keys=True) as api:
        with dashboard(lake, api.url, tmp_path / "log") as url, view(browser, url) as shown:
            shown.open("/")
            shown.shows("The API requires a key.")
        with (
            dashboard(lake, api.url, tmp_path / "log", CRYPTOLAKE_DASHBOARD_API_KEY=key) as url,
            view(browser, url) as shown,
        ):
            shown.open("/?symbol=BTCUSDT")
            shown.drawn(bars=BAR_COUNT)
