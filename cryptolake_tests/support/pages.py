"""A running dashboard, and a browser page with the actions of a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page

from cryptolake_assets.platform.probes import http_ok
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.servers import free_port
from cryptolake_tests.support.waiting import wait_for

TIMEOUT_MS = 60_000
"""The first page of a session can be slow on a busy machine."""
SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"
CHART = ".st-key-candles .chart"
NOTE_PAINTED = """
window.painted = new Map()
const fillText = CanvasRenderingContext2D.prototype.fillText
CanvasRenderingContext2D.prototype.fillText = function (text, x, y, ...more) {
  const at = this.getTransform().transformPoint(new DOMPoint(x, y))
  window.painted.set(text.trim(), [at.x / devicePixelRatio, at.y / devicePixelRatio])
  return fillText.call(this, text, x, y, ...more)
}
"""
"""Records the last position at which each text was painted."""
DOUBLE_CLICK_MS = 600


@contextmanager
def dashboard(settings: Settings, api_url: str, log: Path, port: int | None = None, **variables: str) -> Iterator[str]:
    """Run the dashboard in its own process, reading from `api_url`; yield its address."""
    port = port or free_port()
    environment = {
        **os.environ,
        **settings.environment(),
        "CRYPTOLAKE_DASHBOARD_PORT": str(port),
        "CRYPTOLAKE_DASHBOARD_API_URL": api_url,
        "CRYPTOLAKE_DASHBOARD_REFRESH_S": "2",
        **variables,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cryptolake_assets.dashboard"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: process.poll() is not None or http_ok(f"{url}/_stcore/health"))
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.terminate()
            process.wait(15)


class View:
    """A page of the dashboard in a browser."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.add_init_script(NOTE_PAINTED)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, path: str = "/") -> View:
        self.page.goto(self.url + path)
        self.wait_until_idle()
        return self

    def wait_until_idle(self) -> None:
        """Wait until Streamlit's script has finished."""
        self.page.wait_for_selector(SETTLED)

    @property
    def chart(self) -> Locator:
        return self.page.locator(CHART)

    def attribute(self, name: str) -> str | None:
        """Return a data attribute of the chart."""
        return self.chart.get_attribute(f"data-{name}")

    def number(self, name: str) -> float:
        return float(self.attribute(name) or 0)

    def drawn(self, **attributes: object) -> None:
        """Wait until the chart is drawn with these data attributes: `bars=9` means `data-bars="9"`."""
        conditions = "".join(f'[data-{name.replace("_", "-")}="{value}"]' for name, value in attributes.items())
        self.page.wait_for_selector(f"{CHART}{conditions}[data-drawn-ms]")

    def last_bar(self) -> list[Any]:
        found: list[Any] = json.loads(self.attribute("last") or "null")
        return found

    def cell(self, table: str, column: int, row: int) -> str:
        """Return the text of a table's cell, without padding."""
        locator = self.page.locator(f".st-key-{table} #glide-cell-{column}-{row}")
        locator.wait_for(state="attached")
        return locator.inner_text().strip()

    def has_cell(self, table: str, column: int, row: int, text: str) -> None:
        """Wait until the cell holds the text."""
        cell = self.page.locator(f".st-key-{table} #glide-cell-{column}-{row}", has_text=text)
        cell.wait_for(state="attached")

    def has_row(self, table: str, row: int, texts: list[str], read: Callable[[str], str] = str) -> None:
        """Wait until the row's first cells have these texts.

        The chart is drawn first; the previous view's table may still be shown.
        """
        wait_for(lambda: [read(text) for text in self.row(table, row, len(texts))] == texts, TIMEOUT_MS / 1_000)

    def row(self, table: str, row: int, columns: int) -> list[str]:
        return [self.cell(table, column, row) for column in range(columns)]

    def sort(self, table: str, heading: str) -> None:
        """Click a column heading: the first click sorts ascending, the second descending."""
        grid = self.page.locator(f".st-key-{table} [data-testid=stDataFrame]")
        (before,) = [text for text in grid.locator("th").all_inner_texts() if text.endswith(heading)]
        wait_for(lambda: before in self.painted(), TIMEOUT_MS / 1_000)
        x, y = self.page.evaluate("text => window.painted.get(text)", before)
        # Two clicks in quick succession would count as a double click.
        self.page.evaluate("until => new Promise(done => setTimeout(done, until))", DOUBLE_CLICK_MS)
        grid.click(position={"x": x + 2, "y": y})
        after = {heading: f"↑ {heading}", f"↑ {heading}": f"↓ {heading}"}[before]
        grid.locator("th", has_text=after).wait_for(state="attached")

    def painted(self) -> set[str]:
        """Return every text painted by a table since the page was opened; cells hold only the accessible text."""
        return set(self.page.evaluate("[...window.painted.keys()]"))

    def choose(self, label: str) -> None:
        """Click a radio option or button by its text."""
        self.page.get_by_role("radio", name=label, exact=True).or_(
            self.page.get_by_role("button", name=label, exact=True)
        ).first.click()

    def choose_symbol(self, symbol: str) -> None:
        self._select("symbol", symbol)

    def choose_market(self, title: str) -> None:
        self._select("exchange", title)

    def _select(self, key: str, option: str) -> None:
        self.page.locator(f".st-key-{key} input").click()
        self.page.get_by_role("option", name=option).click()

    def shows(self, text: str) -> None:
        """Wait until the page shows the text."""
        self.page.get_by_text(text).first.wait_for()


@contextmanager
def view(browser: Browser, url: str, *, width: int = 1280, height: int = 1100, **options: Any) -> Iterator[View]:
    """Open a page in its own context; fail on requests to other hosts and on script errors."""
    context: BrowserContext = browser.new_context(viewport={"width": width, "height": height}, **options)
    try:
        shown = View(context.new_page(), url)
        yield shown
        outside = [it for it in shown.requests if not it.startswith((url, url.replace("http", "ws"), "blob:", "data:"))]
        assert outside == [], outside
        assert shown.errors == []
    finally:
        context.close()
