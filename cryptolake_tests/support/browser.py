"""The headless Chromium of the browser tests: an installed one, or the one downloaded by `make browser`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cryptolake_assets.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FETCHED = PROJECT_ROOT / ".venv" / "cryptolake" / "browsers"
"""Directory of the browser downloaded by Playwright: in the virtual environment, not in the user's home."""


def find_browser() -> str | None:
    """Return the path of a Chromium or Chrome, None if there is none.

    Packages install it in the system directories, which PATH may not contain.
    """
    for path in (None, os.defpath):
        for name in NAMES:
            if found := shutil.which(name, path=path):
                return found
    patterns = ("chromium-*/chrome-*/chrome", "chromium-*/chrome-*/*.app/Contents/MacOS/*")
    return next((str(path) for pattern in patterns for path in sorted(FETCHED.glob(pattern))), None)


@contextmanager
def chromium(**options: Any) -> Iterator[Browser]:
    """Run a headless browser."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    assert path, "browser: no Chromium or Chrome found. Run `make browser` to download one."
    sandbox = [] if os.getuid() else ["--no-sandbox"]  # Chromium does not run its sandbox as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=sandbox, **options)
        try:
            yield browser
        finally:
            browser.close()
