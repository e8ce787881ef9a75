"""Ports in use and running processes of a platform, on this machine."""

from __future__ import annotations

import errno
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from cryptolake_assets.errors import PortInUseError
from cryptolake_assets.platform.parts import INSTANCE_VARIABLE, Part
from cryptolake_assets.platform.probes import port_open
from cryptolake_assets.settings import Settings, env_name

TERMINATE_TIMEOUT_S = 8.0


def check_ports(part: Part, settings: Settings) -> None:
    """Raise `PortInUseError`, naming part, port, holder and the variable to change, if a port is in use."""
    for field in part.port_fields:
        port = getattr(settings, field)
        cause = bind_problem(port)
        if cause:
            raise PortInUseError(
                f"{part.name}: port {port} {cause}. End that process, or set {env_name(field)} to a free port."
            )


def bind_problem(port: int) -> str:
    """Return the reason why a server cannot listen on the loopback port; empty if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return f"cannot be used ({error.strerror})"
            return f"is in use by {port_holder(port)}"
    # A listener on all addresses does not stop the bind on every system.
    return f"is in use by {port_holder(port)}" if port_open(port) else ""


def port_holder(port: int) -> str:
    """Return pid and command of the process that listens on `port`, if this user may see them."""
    for process in psutil.process_iter():
        try:
            sockets = process.net_connections(kind="tcp")
            if any(s.status == psutil.CONN_LISTEN and s.laddr and s.laddr.port == port for s in sockets):
                return f"pid {process.pid} ({shlex.join(process.cmdline())[:120]})"
        except psutil.Error:
            continue
    return "a process of another user"


def instance_processes(home: Path) -> list[psutil.Process]:
    """Return this user's processes of the platform of `home`, except the current process and its parents."""
    excluded = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in _own_processes() if process.pid not in excluded and _instance(process) == str(home)]


def end_processes(processes: list[psutil.Process], timeout_s: float = TERMINATE_TIMEOUT_S) -> list[int]:
    """End processes by SIGTERM, and after `timeout_s` by SIGKILL; return their pids."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_s)
    return [process.pid for process in processes]


def _own_processes() -> Iterator[psutil.Process]:
    user = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real == user and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def _instance(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(INSTANCE_VARIABLE)
    except (psutil.Error, OSError):
        return None
