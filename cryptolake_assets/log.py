"""Structured logs: one JSON object per line in the parts' log files, colored text on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer


def configure_logging(level: str = "INFO") -> None:
    """Configure structlog for this process; `level` is the name of a standard-library level."""
    interactive = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            # Omit local variables from tracebacks: they hold secrets, and rendering a table takes seconds.
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if interactive
            else structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            *([] if interactive else [structlog.processors.JSONRenderer()]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
