"""Servers as child processes: start, wait until they listen, end by process id.

For tests and benchmarks, which end their servers; the platform's own parts run under a supervisor.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptolake_assets.errors import PartError
from cryptolake_assets.platform.probes import port_open

LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 120
END_TIMEOUT_S: Final = 20
POLL_S: Final = 0.1


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass
class Server:
    """A running server in its own process group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3_000:]

    def kill(self) -> None:
        """Kill it and its children, like a power failure."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        """Stop it in order; kill it if it does not end in time."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, self.stop_signal)
            try:
                self.process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()


def start(
    name: str,
    command: Sequence[str],
    port: int,
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Server:
    """Start a program in the directory, which also gets its log; wait until it listens on the loopback port.

    Raise `PartError` with the end of its log if it ends before, or does not listen within two minutes.
    """
    log = directory / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            user=user,
            start_new_session=True,
        )
    server = Server(name, process, log, stop_signal)
    try:
        _wait(server, port)
    except BaseException:
        server.stop()
        raise
    return server


def _wait(server: Server, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not port_open(port, LOOPBACK):
        if (code := server.process.poll()) is not None:
            cause = f"it ended with exit code {code}"
        elif time.monotonic() > deadline:
            cause = f"it does not listen on port {port} after {START_TIMEOUT_S} s"
        else:
            time.sleep(POLL_S)
            continue
        raise PartError(f"{server.name}: {cause}. Its log, {server.log}, ends with:\n{server.tail()}")


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Stop the server at the end of the block."""
    try:
        yield server
    finally:
        server.stop()
