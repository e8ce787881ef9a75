"""The real broker, Spark and catalog in a separate home, once per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.platforms import StartPlatform, settings_for, stop_spark_session


@pytest.fixture(scope="module", autouse=True)
def _own_spark_session() -> Iterator[None]:
    """Stop the Spark session after each module: the next one may use another server."""
    yield
    stop_spark_session()


@pytest.fixture(scope="session")
def platform(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a home with running Kafka and Spark, topics and tables."""
    with start_platform(settings_for(tmp_path_factory.mktemp("platform")), [KAFKA, SPARK]) as settings:
        yield settings


@pytest.fixture
def settings(platform: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The platform's settings as those of this process, as in a Dagster run."""
    for name, value in platform.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture(autouse=True)
def _retry_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed steps without delay; the number of retries stays that of the assets."""
    from dagster._core.execution.plan.active import ActiveExecution

    sleep_til_ready = ActiveExecution.sleep_til_ready

    def ready_now(execution: ActiveExecution) -> None:
        if execution._waiting_to_retry:
            execution._waiting_to_retry = dict.fromkeys(execution._waiting_to_retry, 0.0)
        else:
            sleep_til_ready(execution)

    monkeypatch.setattr(ActiveExecution, "sleep_til_ready", ready_now)
