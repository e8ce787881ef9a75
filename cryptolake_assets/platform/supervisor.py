"""The supervisor of one home's parts: its generated configuration, its daemon, and calls to it.

supervisord (package `supervisor`) keeps the parts running and rotates their logs. It listens on a Unix socket with its
own password, so that no other user of the machine can start or stop parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import structlog

from cryptolake_assets.errors import PartError, SettingsError
from cryptolake_assets.platform.parts import INSTANCE_VARIABLE, Part
from cryptolake_assets.settings import Settings, env_name

log = structlog.get_logger(__name__)

LAUNCHER = Path(__file__).with_name("launch.py")
START_SECS = 10  # a part that lives this long counts as started; one that dies earlier restarts with backoff
LOG_BYTES = 20 * 1024**2
LOG_BACKUPS = 3
DAEMON_TIMEOUT_S = 20.0

RUNNING_STATES = ("STARTING", "RUNNING", "BACKOFF", "STOPPING")


@dataclass(frozen=True)
class ProcessInfo:
    """The supervisor's information about one part."""

    name: str
    state: str
    pid: int | None
    started_s: float  # last start, epoch seconds; 0 if never
    stopped_s: float  # last end, epoch seconds; 0 if never
    now_s: float
    exit_status: int
    spawn_error: str

    @property
    def alive(self) -> bool:
        """Return whether its process exists and is not being stopped."""
        return self.pid is not None and self.state in ("STARTING", "RUNNING")


class Supervisor:
    """The supervisor of the platform whose home is `settings.home`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run_dir = settings.run_dir
        self._access_file = self._run_dir / "supervisor.json"
        self.config_file = self._run_dir / "supervisord.conf"
        self.pid_file = self._run_dir / "supervisord.pid"

    def write_config(self, parts: Iterable[Part]) -> None:
        """Write the parts' specs and the supervisor's configuration, without starting or stopping anything."""
        for directory in (self._run_dir, self._settings.log_dir, self._run_dir / "parts"):
            directory.mkdir(parents=True, exist_ok=True)
        self._run_dir.chmod(0o700)
        access = self._access() or {"socket": str(self._new_socket()), "password": secrets.token_hex(16)}
        write_private(self._access_file, json.dumps(access))
        programs = [self._program(part) for part in parts]
        write_private(self.config_file, "\n".join([self._daemon_sections(access), *programs]))

    def _spec_file(self, name: str) -> Path:
        return self._run_dir / "parts" / f"{name}.json"

    def spec(self, name: str) -> dict[str, Any]:
        """Return the written spec of a part: `command`, `environment` and `directory`."""
        return dict(json.loads(self._spec_file(name).read_text(encoding="utf-8")))

    def is_running(self) -> bool:
        try:
            self._call("getState")
        except (OSError, HTTPException, xmlrpc.client.Error):
            return False
        return True

    def start_daemon(self) -> None:
        """Start supervisord in the background. Raises `PartError` with its log's path if it does not respond."""
        settings_names = {env_name(field) for field in Settings.model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in settings_names}
        result = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config_file)],
            cwd=self._run_dir,
            env={**environment, INSTANCE_VARIABLE: str(self._settings.home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + DAEMON_TIMEOUT_S
        while result.returncode == 0 and time.monotonic() < deadline:
            if self.is_running():
                return
            time.sleep(0.05)
        raise PartError(
            f"supervisor: it did not start ({result.stdout.strip()[-300:] or 'no response on its socket'}). "
            f"Log: {self._log_file}. Run `cryptolake down`, then `cryptolake up` again."
        )

    def reload(self) -> list[str]:
        """Apply the written configuration: add new parts, replace changed ones, stop removed ones.

        Return the names of the changed parts that were running and are now stopped.
        """
        (added, changed, removed) = self._call("reloadConfig")[0]
        running = [info.name for info in self.processes().values() if info.state in RUNNING_STATES]
        for name in (*removed, *changed):
            log.info("part_config_changed", part=name)
            self._call("stopProcessGroup", name)
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)
        return [name for name in changed if name in running]

    def processes(self) -> dict[str, ProcessInfo]:
        """Return the parts by name; empty if no supervisor runs."""
        try:
            rows = self._call("getAllProcessInfo")
        except (OSError, HTTPException, xmlrpc.client.Error):
            return {}
        return {
            row["name"]: ProcessInfo(
                name=row["name"],
                state=row["statename"],
                pid=row["pid"] or None,
                started_s=float(row["start"]),
                stopped_s=float(row["stop"]),
                now_s=float(row["now"]),
                exit_status=row["exitstatus"],
                spawn_error=row["spawnerr"],
            )
            for row in rows
        }

    def start(self, name: str) -> None:
        """Start a part without waiting; do nothing if it already runs."""
        self._call("startProcess", name, False, accept=("ALREADY_STARTED",))

    def stop(self, name: str) -> None:
        """Stop a part and wait until its process has ended."""
        self._call("stopProcess", name, True, accept=("NOT_RUNNING", "BAD_NAME"))

    def shutdown(self, timeout_s: float = 30.0) -> None:
        """Stop the supervisor and the parts that it still runs; wait up to `timeout_s` for its process to end."""
        import psutil

        pid = self._call("getPID")
        try:
            daemon = psutil.Process(pid)
            self._call("shutdown")
            daemon.wait(timeout_s)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            return

    def remove_files(self) -> None:
        """Remove the files of a supervisor that no longer runs."""
        access = self._access()
        for path in (self._access_file, self.pid_file, Path(access["socket"]) if access else None):
            if path is not None:
                path.unlink(missing_ok=True)

    @property
    def _log_file(self) -> Path:
        return self._settings.log_dir / "supervisord.log"

    def _access(self) -> dict[str, str] | None:
        try:
            access = json.loads(self._access_file.read_text(encoding="utf-8"))
            return {"socket": access["socket"], "password": access["password"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _new_socket(self) -> Path:
        # A Unix socket's path is limited to about 100 bytes, too few for a deeply nested home.
        digest = hashlib.sha256(str(self._settings.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"cryptolake-{os.getuid()}-{digest}.sock"

    def _call(self, method: str, *arguments: Any, accept: tuple[str, ...] = ()) -> Any:
        from supervisor.xmlrpc import Faults, SupervisorTransport

        access = self._access()
        if access is None:
            raise ConnectionRefusedError("no supervisor is running")
        transport = SupervisorTransport("cryptolake", access["password"], f"unix://{access['socket']}")
        # xmlrpc.client requires a URL, but the transport uses the socket.
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in {getattr(Faults, name) for name in accept}:
                return None
            raise
        finally:
            transport.close()

    def _daemon_sections(self, access: dict[str, str]) -> str:
        return (
            "; Generated by `cryptolake up`; edits are overwritten.\n"
            f"[unix_http_server]\nfile={_value(access['socket'])}\nchmod=0700\n"
            f"username=cryptolake\npassword={access['password']}\n\n"
            f"[supervisord]\nlogfile={_value(self._log_file)}\nlogfile_maxbytes={LOG_BYTES}\n"
            f"logfile_backups={LOG_BACKUPS}\npidfile={_value(self.pid_file)}\n"
            f"childlogdir={_value(self._settings.log_dir)}\numask=077\n\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        )

    def _program(self, part: Part) -> str:
        spec = json.dumps(part.spec(self._settings), sort_keys=True, indent=1)
        files = {str(path): text for path, text in part.files(self._settings).items()}
        digest = hashlib.sha256(json.dumps([spec, files], sort_keys=True).encode()).hexdigest()
        spec_file = self._spec_file(part.name)
        write_private(spec_file, spec)
        for path, text in (part.files(self._settings) | part.watched_files(self._settings)).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, text)
        command = shlex.join([sys.executable, "-I", "-S", str(LAUNCHER), str(spec_file)])
        return (
            f"[program:{part.name}]\n"
            f"command={_value(command)}\n"
            # The supervisor restarts a part whose section changed: the digest covers its spec and generated files.
            f'environment=CRYPTOLAKE_SPEC="{digest}"\n'
            "autostart=false\nautorestart=true\n"
            f"startsecs={START_SECS}\nstartretries=1000000\n"
            f"stopwaitsecs={part.stop_timeout_s}\nstopasgroup=true\nkillasgroup=true\n"
            f"redirect_stderr=true\nstdout_logfile={_value(part.log_file(self._settings))}\n"
            f"stdout_logfile_maxbytes={LOG_BYTES}\nstdout_logfile_backups={LOG_BACKUPS}\n"
        )


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable only by its owner."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)

    def private(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    with open(partial, "w", encoding="utf-8", opener=private) as file:
        file.write(text)
    partial.replace(path)


def _value(value: str | Path) -> str:
    """Escape a value of the supervisor's configuration. Raises `SettingsError` if its format cannot hold the value."""
    text = str(value)
    if re.search(r"\s[;#]|[\n\r]", text):
        raise SettingsError(
            f"supervisor: unsupported path {text!r}, with a line break, ' ;' or ' #'. Use another CRYPTOLAKE_HOME."
        )
    return text.replace("%", "%%")
