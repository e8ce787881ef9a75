"""The real broker, Spark and catalog in a home of their own, once for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.platforms import StartPlatform, settings_for, stop_spark_session


@pytest.fixture(scope="module", autouse=True)
def _own_spark_session() -> Iterator[None]:
    """No module finds the session of another one, which may belong to another server."""
    yield
    stop_spark_session()


@pytest.fixture(scope="session")
def platform(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a home where Kafka and Spark are up, the topics created and the tables made."""
    with start_platform(settings_for(tmp_path_factory.mktemp("platform")), [KAFKA, SPARK]) as settings:
        yield settings


@pytest.fixture
def settings(platform: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The platform's settings as the process's own, as a run of Dagster has them."""
    for name, value in platform.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture(autouse=True)
def _retry_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that failed is tried again without its pause of seconds; how often stays as the assets say."""
    from dagster._core.execution.plan.active import ActiveExecution

    sleep_til_ready = ActiveExecution.sleep_til_ready

    def ready_now(execution: ActiveExecution) -> None:
        if execution._waiting_to_retry:
            execution._waiting_to_retry = dict.fromkeys(execution._waiting_to_retry, 0.0)
        else:
            sleep_til_ready(execution)

    monkeypatch.setattr(ActiveExecution, "sleep_til_ready", ready_now)
