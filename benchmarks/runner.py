"""Run the child processes of a benchmark: each measurement and each preparation is a separate process.

A child prints JSON lines: `{"progress": 0.5}` while it works, `{"result": …}` at its end. Its standard error goes to a
log file, whose last lines are shown if it fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.results import ROOT, load
from cryptolake_tests.support import web

LOG_TAIL_LINES = 25


class BenchmarkError(Exception):
    """A child process failed, or its results are wrong."""


class Runner:
    """Run children one at a time and show which one runs.

    `state` is the directory of all generated data; `clock_url` is set while the exchange's clock is served.
    """

    def __init__(self, state: Path, console: Console) -> None:
        self.state = state
        self.console = console
        self.clock_url = ""
        self.loads: list[float] = []
        self._log = state / "children.log"
        state.mkdir(parents=True, exist_ok=True)

    def step(self, title: str, name: str, **arguments: Any) -> Any:
        """Run a function of `benchmarks.steps` in a separate process and return its result."""
        return self.step_of("benchmarks.steps", title, name, **arguments)

    def step_of(self, module: str, title: str, name: str, **arguments: Any) -> Any:
        """Run a step of `module` in a separate process and return its result."""
        return self._child(title, module, name, json.dumps(arguments, default=str))

    def bare(self, title: str, script: str, *arguments: Path | str) -> dict[str, Any]:
        """Run a bare script and return its printed result: name, query_s, cpu_s, rss_mb, …"""
        return dict(self._child(title, f"benchmarks.bare.{script}", *map(str, arguments)))

    def is_generated(self, directory: Path, key: dict[str, Any]) -> bool:
        """Return whether the directory has the data generated with exactly these parameters."""
        stamp = directory / "made.json"
        return stamp.exists() and json.loads(stamp.read_text())["key"] == json.loads(json.dumps(key))

    def remember(self, directory: Path, key: dict[str, Any], result: Any = None) -> None:
        """Record that the directory is complete, with its parameters and result."""
        (directory / "made.json").write_text(json.dumps({"key": key, "result": result}, indent=2))

    def recall(self, directory: Path) -> Any:
        """Return the result recorded by `remember`."""
        return json.loads((directory / "made.json").read_text())["result"]

    def print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _child(self, title: str, module: str, *arguments: str) -> Any:
        self.loads.append(load()[0])
        if not self.console.is_terminal:
            self.print(f"  … {title}")
        with self._log.open("a") as log, self._bar() as progress:
            log.write(f"--- {title}\n")
            log.flush()
            task = progress.add_task(title, total=None)
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"},
            )
            try:
                result = self._listen(process, progress, task)
            except BaseException:
                # Wait, so that a child can stop a server that it runs.
                process.terminate()
                process.wait(60)
                raise
        if process.returncode != 0 or result is None:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
            raise BenchmarkError(f"{title}: exit code {process.returncode}. Last lines of {self._log}:\n{tail}")
        return result["result"]

    def _bar(self) -> Progress:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    def _listen(self, process: subprocess.Popen[str], progress: Progress, task: Any) -> dict[str, Any] | None:
        result: dict[str, Any] | None = None
        assert process.stdout is not None
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict) and "progress" in message:
                progress.update(task, total=1.0, completed=message["progress"])
            elif isinstance(message, dict) and "result" in message:
                result = message
        process.wait()
        return result

    @contextmanager
    def exchange_clock(self, now_ms: int) -> Iterator[None]:
        """Serve the exchange's `/fapi/v1/time`, which a refresh requests, with a constant time."""
        body = json.dumps({"serverTime": now_ms}).encode()

        class Handler(web.QuietHandler):
            def do_GET(self) -> None:
                self.respond(200, body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.clock_url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            with web.serving(server):
                yield
        finally:
            self.clock_url = ""

    @contextmanager
    def spark(self, home: Path) -> Iterator[None]:
        """Run the product's Spark Connect server for the lake of a home, on free ports."""
        self.step(f"starting Spark for {home.parent.name}", "spark_up", home=home)
        try:
            yield
        finally:
            self.step("stopping Spark", "spark_down", home=home)
            # Let the load of the stopped processes settle.
            time.sleep(1)


def progress(share: float) -> None:
    """Print a child's progress, 0 to 1."""
    print(json.dumps({"progress": round(share, 4)}), flush=True)
