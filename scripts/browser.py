"""Find or install a Chromium for the browser tests: the machine's own, else Playwright's, else the system's package.

Run by `make browser`, on which `make test` depends, or as `python -m scripts.browser`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from cryptolake_tests.support.browser import FETCHED, find_browser

SIZE = "170 MB"


def main() -> int:
    """Return 0 if there is a browser that starts; else print the next step and return 1."""
    for fetch in (None, _playwright, _apt):
        if fetch is not None:
            fetch()
        path = find_browser()
        if path is not None and _starts(path):
            print(f"Chromium for the browser tests: {path}")
            return 0
    print(
        "browser: no Chromium or Chrome that starts was found, and none could be installed. Install one (Debian and "
        "Ubuntu: `sudo apt-get install chromium`), then run `make browser` again.",
        file=sys.stderr,
    )
    return 1


def _starts(path: str) -> bool:
    sandbox = [] if os.getuid() else ["--no-sandbox"]
    command = [path, "--headless", *sandbox, "--disable-gpu", "--dump-dom", "about:blank"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _playwright() -> None:
    _report(f"no Chromium or Chrome was found: downloading Playwright's, about {SIZE}, into {FETCHED}")
    _run([sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"])


def _apt() -> None:
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        return
    _report(f"installing the system's package chromium by apt-get, about {SIZE}")
    _run(["apt-get", "update", "-qq"])
    _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])


def _run(command: list[str]) -> None:
    environment = {
        **os.environ,
        "PLAYWRIGHT_BROWSERS_PATH": str(FETCHED),
        "DEBIAN_FRONTEND": "noninteractive",
    }
    result = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        _report(f"failed: {(result.stderr or result.stdout).strip().splitlines()[-1:]}")


def _report(text: str) -> None:
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
