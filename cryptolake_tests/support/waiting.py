"""Wait for conditions instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], timeout_s: float = 180, poll_s: float = 0.1) -> None:
    """Wait until the condition holds; fail the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition was not met within {timeout_s:.0f} s"
        time.sleep(poll_s)


def wait_for_value(read: Callable[[], object], value: object, timeout_s: float = 180, poll_s: float = 0.1) -> None:
    """Wait until `read` returns the value; fail the test with the last one after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (last := read()) != value:
        assert time.monotonic() < deadline, f"got {last!r} instead of {value!r} after {timeout_s:.0f} s"
        time.sleep(poll_s)
