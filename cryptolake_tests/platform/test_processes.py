"""Ports in use are reported with their holder; leftover processes are found and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cryptolake_assets.errors import PortInUseError
from cryptolake_assets.platform import processes
from cryptolake_assets.platform.parts import INSTANCE_VARIABLE, KAFKA, PARTS
from cryptolake_assets.settings import load_settings

BROKER = next(part for part in PARTS if part.name == KAFKA)


@contextmanager
def child(code: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process of the platform of `home` that runs `code`, prints a line and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print('ready', flush=True); import time; time.sleep(600)"],
        env={**os.environ, INSTANCE_VARIABLE: str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_used_port_is_reported_with_its_holder(tmp_path: Path, address: str) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortInUseError) as error:
            processes.check_ports(BROKER, load_settings(home=tmp_path, kafka_port=port))
    for part in ("kafka: port", str(port), f"pid {os.getpid()} (", "CRYPTOLAKE_KAFKA_PORT"):
        assert part in str(error.value)


def test_second_port_is_checked_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as spare:
        used, free = server.getsockname()[1], spare.getsockname()[1]
        spare.close()
        settings = load_settings(home=tmp_path, kafka_port=free, kafka_controller_port=used)
        with pytest.raises(PortInUseError, match="CRYPTOLAKE_KAFKA_CONTROLLER_PORT"):
            processes.check_ports(BROKER, settings)


def test_recently_closed_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()
    assert processes.bind_problem(port) == ""


def test_only_processes_of_the_home_are_found_and_ended(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "mine too"
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with child("pass", mine) as one, child(stubborn, mine) as two, child("pass", other) as three:
        found = processes.instance_processes(mine)
        assert {process.pid for process in found} == {one.pid, two.pid}
        assert set(processes.end_processes(found, timeout_s=0.5)) == {one.pid, two.pid}
        assert one.wait(10) is not None
        assert two.wait(10) is not None
        assert three.poll() is None
        assert processes.instance_processes(mine) == []


def test_current_process_and_its_parents_are_excluded(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from cryptolake_assets.platform.processes import instance_processes; "
        f"print(len(instance_processes(Path({str(tmp_path)!r}))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, INSTANCE_VARIABLE: str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "0"
