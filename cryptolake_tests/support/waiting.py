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


def wait_for_value(of: Callable[[], object], value: object, timeout_s: float = 180, poll_s: float = 0.1) -> None:
    """Return once `of` gives the value; fail the test with the last one when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (last := of()) != value:
        assert time.monotonic() < deadline, f"it is {last!r} and not {value!r} after {timeout_s:.0f} s"
        time.sleep(poll_s)
