"""Waiting for a condition instead of sleeping for luck."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], timeout_s: float = 180, poll_s: float = 0.1) -> None:
    """Returns once the condition holds; fails the test when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not come true in {timeout_s:.0f} s"
        time.sleep(poll_s)
