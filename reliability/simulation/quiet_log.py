"""Structured logs of the product during a simulation: only the event names, to one listener; nothing is printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

_listener: list[Callable[[str], None]] = [lambda _event: None]


class _EventNames(structlog.BoundLoggerBase):
    """A bound logger that passes on the event's name."""

    def info(self, event: str, *_args: Any, **_values: Any) -> None:
        _listener[0](event)

    warning = error = exception = info

    def debug(self, event: str, *_args: Any, **_values: Any) -> None:
        pass

    def bind(self, **_values: Any) -> _EventNames:
        return self


def listen(listener: Callable[[str], None]) -> Callable[[], None]:
    """Pass the names of all further events to the listener; return a function that ends it."""
    before = structlog.get_config()
    _listener[0] = listener
    structlog.configure(wrapper_class=_EventNames, processors=[], cache_logger_on_first_use=False)
    return lambda: structlog.configure(**before)
