"""The headless Chromium of the browser tests: the machine's own, or the one that set-up fetched for Playwright."""

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
"""Where Playwright's own browser goes: inside the environment, not into the user's home."""


def find_browser() -> str | None:
    """Path of a Chromium or Chrome; None where there is none.

    A package's lies in the system's own directories, which a PATH may leave out.
    """
    for path in (None, os.defpath):
        for name in NAMES:
            if found := shutil.which(name, path=path):
                return found
    patterns = ("chromium-*/chrome-*/chrome", "chromium-*/chrome-*/*.app/Contents/MacOS/*")
    return next((str(path) for pattern in patterns for path in sorted(FETCHED.glob(pattern))), None)


@contextmanager
def chromium(**options: Any) -> Iterator[Browser]:
    """A running headless browser."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    assert path, "no Chromium or Chrome was found: `make browser` fetches one"
    sandbox = [] if os.getuid() else ["--no-sandbox"]  # Chromium refuses its sandbox to root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=sandbox, **options)
        try:
            yield browser
        finally:
            browser.close()
