"""The supervised broker: restarts after SIGKILL, leaves no process, and shares the machine with another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cryptolake_assets.errors import PortInUseError
from cryptolake_assets.kafka.topics import end_offsets
from cryptolake_assets.platform import lifecycle, probes, processes
from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.platform.status import status
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def broker_home(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with start_platform(settings_for(tmp_path_factory.mktemp("a home")), [KAFKA]) as settings:
        yield settings
    assert processes.instance_processes(settings.home) == []


@pytest.fixture
def broker(broker_home: Settings) -> Settings:
    """A home with a space in its name where only the broker runs, restarted if a previous test stopped it."""
    lifecycle.up(broker_home, [KAFKA])
    return broker_home


def kafka_pid(settings: Settings) -> int | None:
    info = Supervisor(settings).processes().get(KAFKA)
    return info.pid if info else None


def test_second_up_starts_nothing(platform: Settings) -> None:
    states = {row.name: row.state for row in status(platform)}
    assert states[KAFKA] == states[SPARK] == "running"
    assert states["producer"] == "stopped"
    assert set(end_offsets(platform, platform.kafka_topic_futures)) == set(range(platform.kafka_partitions))
    assert lifecycle.up(platform, [KAFKA, SPARK]) == []


def test_killed_broker_is_restarted(broker: Settings) -> None:
    first = kafka_pid(broker)
    assert first
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: kafka_pid(broker) not in (None, first) and probes.port_open(broker.kafka_port))
    wait_for(lambda: len(end_offsets(broker, broker.kafka_topic_futures)) == broker.kafka_partitions)


def test_down_ends_the_parts_of_a_killed_supervisor(broker: Settings) -> None:
    pid = kafka_pid(broker)
    assert pid
    daemon = psutil.Process(int(Supervisor(broker).pid_file.read_text()))
    daemon.kill()
    daemon.wait(10)
    assert psutil.pid_exists(pid)
    lifecycle.down(broker)
    assert not psutil.pid_exists(pid)
    assert not probes.port_open(broker.kafka_port)


def test_up_replaces_the_parts_of_a_killed_supervisor(broker: Settings) -> None:
    pid = kafka_pid(broker)
    assert pid
    daemon = psutil.Process(int(Supervisor(broker).pid_file.read_text()))
    daemon.kill()
    daemon.wait(10)
    assert lifecycle.up(broker, [KAFKA]) == [KAFKA]
    assert kafka_pid(broker) != pid
    assert not psutil.pid_exists(pid)


def test_two_homes_run_independently(broker: Settings, tmp_path: Path) -> None:
    other = settings_for(tmp_path / "other")
    try:
        lifecycle.up(other, [KAFKA])
        assert kafka_pid(other) not in (None, kafka_pid(broker))
    finally:
        stopped = lifecycle.down(other)
    assert stopped == [KAFKA]
    assert probes.port_open(broker.kafka_port)


def test_port_of_another_home_is_rejected_before_anything_starts(broker: Settings, tmp_path: Path) -> None:
    ports = {field: getattr(broker, field) for field in ("kafka_port", "kafka_controller_port")}
    other = settings_for(tmp_path / "other", **ports)
    with pytest.raises(PortInUseError, match=rf"kafka: port {broker.kafka_port} .*CRYPTOLAKE_KAFKA_PORT"):
        lifecycle.up(other, [KAFKA])
    assert processes.instance_processes(other.home) == []


def test_up_restarts_only_a_part_with_changed_configuration(broker: Settings) -> None:
    pid = kafka_pid(broker)
    same = load_settings(**{name: getattr(broker, name) for name in type(broker).model_fields})
    assert lifecycle.up(same, [KAFKA]) == []
    assert kafka_pid(broker) == pid
    moved = same.model_copy(update={"kafka_controller_port": settings_for(broker.home).kafka_controller_port})
    assert lifecycle.up(moved, [KAFKA]) == [KAFKA]
    assert kafka_pid(broker) != pid
