"""The real broker, Spark and catalog in a home of their own, once for the whole session."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.settings import PORT_FIELDS, Settings, get_settings, load_settings

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.integration)
            # The platform's start counts towards the first test that asks for it.
            item.add_marker(pytest.mark.timeout(600))


def free_ports() -> dict[str, int]:
    """A free port for every port setting, by field name."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORT_FIELDS]
    try:
        return {field: sock.getsockname()[1] for field, sock in zip(PORT_FIELDS, sockets, strict=True)}
    finally:
        for sock in sockets:
            sock.close()


def settings_for(home: Path, **overrides: Any) -> Settings:
    """Settings of a platform of its own, beside whatever else runs on this machine."""
    return load_settings(**{"home": home, **free_ports(), **overrides})


def stop_spark_session() -> None:
    """A session that outlives its server would be tried again and again when the process ends."""
    if "pyspark" not in sys.modules:
        return
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()


@pytest.fixture(scope="module", autouse=True)
def _own_spark_session() -> Iterator[None]:
    """No module finds the session of another one, which may belong to another server."""
    yield
    stop_spark_session()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a home where Kafka and Spark are up, the topics created and the tables made."""
    settings = settings_for(tmp_path_factory.mktemp("platform"), spark_memory_mb=1536)
    try:
        lifecycle.up(settings, [KAFKA, SPARK])
        yield settings
    finally:
        stop_spark_session()
        lifecycle.down(settings)


@pytest.fixture
def settings(platform: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The platform's settings as the process's own, as a run of Dagster has them."""
    for name, value in platform.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()
