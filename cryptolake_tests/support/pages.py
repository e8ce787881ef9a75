"""A dashboard that serves, and what a person would see and do on its pages."""

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
"""The first page of a session can take long on a busy machine."""
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
"""Keeps where each text was painted last."""
DOUBLE_CLICK_MS = 600


@contextmanager
def dashboard(settings: Settings, api_url: str, log: Path, port: int | None = None, **variables: str) -> Iterator[str]:
    """The dashboard as a process of its own that reads `api_url`; yields its address."""
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
        self.settled()
        return self

    def settled(self) -> None:
        self.page.wait_for_selector(SETTLED)

    @property
    def chart(self) -> Locator:
        return self.page.locator(CHART)

    def fact(self, name: str) -> str | None:
        """What the chart says of itself."""
        return self.chart.get_attribute(f"data-{name}")

    def number(self, name: str) -> float:
        return float(self.fact(name) or 0)

    def drawn(self, **facts: object) -> None:
        """Waits until the chart says so: `bars=9` for `data-bars="9"`."""
        wanted = "".join(f'[data-{name.replace("_", "-")}="{value}"]' for name, value in facts.items())
        self.page.wait_for_selector(f"{CHART}{wanted}[data-drawn-ms]")

    def last_bar(self) -> list[Any]:
        found: list[Any] = json.loads(self.fact("last") or "null")
        return found

    def cell(self, table: str, column: int, row: int) -> str:
        """The text of a table's cell, without the blanks that bring its column to one width."""
        locator = self.page.locator(f".st-key-{table} #glide-cell-{column}-{row}")
        locator.wait_for(state="attached")
        return locator.inner_text().strip()

    def has_cell(self, table: str, column: int, row: int, text: str) -> None:
        """Waits until the cell holds the text."""
        cell = self.page.locator(f".st-key-{table} #glide-cell-{column}-{row}", has_text=text)
        cell.wait_for(state="attached")

    def has_row(self, table: str, row: int, texts: list[str], read: Callable[[str], str] = str) -> None:
        """Waits until the row's first cells are read as these: the chart is drawn first, the table of the view before
        may still be there."""
        wait_for(lambda: [read(text) for text in self.row(table, row, len(texts))] == texts, TIMEOUT_MS / 1_000)

    def row(self, table: str, row: int, columns: int) -> list[str]:
        return [self.cell(table, column, row) for column in range(columns)]

    def sort(self, table: str, heading: str) -> None:
        """Clicks a heading, which is painted: the smallest first, the largest first when it is clicked again."""
        grid = self.page.locator(f".st-key-{table} [data-testid=stDataFrame]")
        (before,) = [text for text in grid.locator("th").all_inner_texts() if text.endswith(heading)]
        wait_for(lambda: before in self.painted(), TIMEOUT_MS / 1_000)
        x, y = self.page.evaluate("text => window.painted.get(text)", before)
        # A click that follows another one at once would be the second half of a double one.
        self.page.evaluate("until => new Promise(done => setTimeout(done, until))", DOUBLE_CLICK_MS)
        grid.click(position={"x": x + 2, "y": y})
        after = {heading: f"↑ {heading}", f"↑ {heading}": f"↓ {heading}"}[before]
        grid.locator("th", has_text=after).wait_for(state="attached")

    def painted(self) -> set[str]:
        """Every text that a table has painted since the page was opened; its cells are what is read aloud."""
        return set(self.page.evaluate("[...window.painted.keys()]"))

    def choose(self, label: str) -> None:
        """Clicks an option of the page's choices by its text."""
        self.page.get_by_role("radio", name=label, exact=True).or_(
            self.page.get_by_role("button", name=label, exact=True)
        ).first.click()

    def choose_symbol(self, symbol: str) -> None:
        box = self.page.locator(".st-key-symbol input")
        box.click()
        self.page.get_by_role("option", name=symbol).click()

    def says(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()


@contextmanager
def view(browser: Browser, url: str, *, width: int = 1280, height: int = 1100, **options: Any) -> Iterator[View]:
    """A page in a context of its own; nothing outside the machine may be asked for, and no script may fail."""
    context: BrowserContext = browser.new_context(viewport={"width": width, "height": height}, **options)
    try:
        shown = View(context.new_page(), url)
        yield shown
        outside = [it for it in shown.requests if not it.startswith((url, url.replace("http", "ws"), "blob:", "data:"))]
        assert outside == [], outside
        assert shown.errors == []
    finally:
        context.close()
