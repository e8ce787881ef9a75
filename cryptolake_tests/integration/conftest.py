"""The real broker, Spark and catalog in a home of their own, once for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.platforms import settings_for, stop_spark_session

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.integration)
            # The platform's start counts towards the first test that asks for it.
            item.add_marker(pytest.mark.timeout(600))


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
