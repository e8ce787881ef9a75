"""The replay exchange as a process: settings, logs, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.servers import free_port

COMMAND = [sys.executable, "-m", "cryptolake_assets.replay.server"]


def _environment(port: int, directory: Path) -> dict[str, str]:
    return os.environ | {
        "CRYPTOLAKE_EXCHANGE_PORT": str(port),
        "CRYPTOLAKE_REPLAY_DIR": str(directory),
        "CRYPTOLAKE_REPLAY_SPEED": "10",
        "CRYPTOLAKE_LOG_LEVEL": "INFO",
    }


def test_exchange_serves_until_sigterm(tmp_path: Path) -> None:
    port = free_port()
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(COMMAND, env=_environment(port, DEMO_CAPTURE_DIR), stderr=log, cwd=tmp_path)
        try:
            transport = httpx.HTTPTransport(retries=0)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport) as client:
                status = _first_status(client, process)
                assert (status["state"], status["speed"]) == ("waiting", 10.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        events = [json.loads(line) for line in log]
    assert [event["event"] for event in events] == ["replay_exchange_started", "replay_exchange_stopped"]
    assert events[0]["frames_total"] == 24_356


def _first_status(client: httpx.Client, process: subprocess.Popen[bytes]) -> dict[str, object]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "the exchange exited before its first response"
        try:
            status: dict[str, object] = client.get("/replay/status").json()
        except httpx.ConnectError:
            time.sleep(0.02)
        else:
            return status
    raise AssertionError("the exchange did not respond within 30 s")


def _run(port: int, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND, env=_environment(port, directory), capture_output=True, text=True, timeout=60, check=False
    )


def test_directory_without_captures_ends_the_process(tmp_path: Path) -> None:
    done = _run(free_port(), tmp_path)
    assert done.returncode == 1
    assert "contains no *.ndjson" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_ends_the_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = _run(listener.getsockname()[1], DEMO_CAPTURE_DIR)
    assert done.returncode == 1
    assert "is used by another process" in done.stderr
    assert "CRYPTOLAKE_EXCHANGE_PORT" in done.stderr
    assert "Traceback" not in done.stderr
