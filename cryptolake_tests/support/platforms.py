"""Platforms of tests: settings with free ports, parts that run until a block ends, Spark sessions stopped after it.

A test or fixture that starts the broker or Spark uses the fixture `start_platform`, which marks it `integration`.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import CODE_SERVERS, DAGSTER_DAEMON, DAGSTER_WEBSERVER
from cryptolake_assets.settings import PORT_FIELDS, Settings, load_settings
from cryptolake_tests.support import part_logs

StartPlatform = Callable[..., AbstractContextManager[Settings]]
"""Type of `running`, which the fixture `start_platform` returns."""
SPARK_MEMORY_MB = 1536
DAGSTER_PARTS = (*(part.name for part in CODE_SERVERS), DAGSTER_WEBSERVER, DAGSTER_DAEMON)
FIRST_PORT, PORTS_EACH, WORKERS = 12_000, 2_000, 10
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_first = FIRST_PORT + _worker % WORKERS * PORTS_EACH
_candidates = cycle(random.sample(range(_first, _first + PORTS_EACH), PORTS_EACH))


def settings_for(home: Path, **overrides: Any) -> Settings:
    """Return settings of a separate platform that shares the machine with others."""
    return load_settings(**{"home": home, "spark_memory_mb": SPARK_MEMORY_MB, **free_ports(), **overrides})


def free_ports(names: Collection[str] = PORT_FIELDS) -> dict[str, int]:
    """Return a free port for each name, by default for every port setting.

    They are below the ephemeral ports of the system, each worker of a run has its own range, and a port is reused only
    after all others: so nothing takes a port between this check and the start of the part.
    """
    return {name: next(filter(_is_free, _candidates)) for name in names}


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@contextmanager
def running(settings: Settings, *stages: Collection[str]) -> Iterator[Settings]:
    """Start parts, stage after stage; stop the platform after the block, even if the test started it."""
    part_logs.watch(settings.log_dir)
    try:
        for parts in stages:
            lifecycle.up(settings, parts)
        yield settings
    finally:
        stop_spark_session()
        lifecycle.down(settings)


def stop_spark_session() -> None:
    """Stop the active session: without its server it would retry for a long time at process exit."""
    if "pyspark" not in sys.modules:
        return
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()
