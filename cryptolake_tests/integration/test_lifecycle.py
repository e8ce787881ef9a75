"""Start, watch and stop parts under the real supervisor; the parts are small Python servers."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from cryptolake_assets.errors import HomeError, PartError, PortInUseError
from cryptolake_assets.platform import lifecycle, parts, probes, processes
from cryptolake_assets.platform.parts import Part, Step
from cryptolake_assets.platform.status import problems, status
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.waiting import wait_for

SERVER = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[2].encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def serving(name: str, port_field: str, **changes: object) -> Part:
    """Return a part that serves HTTP on a port of the settings and responds with the log level."""
    part = Part(
        name=name,
        command=lambda s: (sys.executable, "-c", SERVER, str(getattr(s, port_field)), s.log_level),
        is_ready=lambda s, _: probes.http_ok(f"http://127.0.0.1:{getattr(s, port_field)}/"),
        port_fields=(port_field,),
        ignores=lambda _: True,
        stop_timeout_s=5,
        start_timeout_s=20,
    )
    return replace(part, **changes)  # type: ignore[arg-type]


def failing(name: str, text: str) -> Part:
    """Return a part that prints a text and exits with an error."""
    code = f"import sys; print({text!r}); sys.exit(3)"
    return Part(name=name, command=lambda _: (sys.executable, "-c", code), is_ready=lambda *_: False)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    fields = ("kafka_port", "kafka_controller_port", "spark_connect_port", "spark_ui_port", "exchange_port")
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in (*fields, "dagster_port")]
    ports = {f: s.getsockname()[1] for f, s in zip((*fields, "dagster_port"), servers, strict=True)}
    for server in servers:
        server.close()
    made = load_settings(home=tmp_path / "a home", **ports)
    yield made
    # Faster than `down`, which other tests cover.
    for process in processes.instance_processes(made.home):
        process.kill()
    wait_for(lambda: processes.instance_processes(made.home) == [])
    Supervisor(made).remove_files()


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the real parts and steps."""

    def install(*chosen: Part, steps: tuple[Step, ...] = ()) -> None:
        monkeypatch.setattr(parts, "PARTS", chosen)
        monkeypatch.setattr(parts, "STEPS", steps)

    return install


def null_console() -> Console:
    return Console(file=io.StringIO(), width=200)


def pid_of(settings: Settings, name: str) -> int | None:
    return Supervisor(settings).processes()[name].pid


def test_up_starts_parts_in_order_and_down_stops_them_all(settings: Settings, platform: Callable[..., None]) -> None:
    seen: list[bool] = []
    step = Step(
        "step", "a step", lambda s: seen.append(probes.port_open(s.kafka_port)), needs=("one",), required_by=("two",)
    )
    two = serving("two", "exchange_port", needs=("step",), prepare=lambda _: seen.append(len(seen) == 1))
    platform(two, serving("one", "kafka_port"), steps=(step,))
    assert set(lifecycle.up(settings, console=null_console())) == {"one", "two"}
    assert seen == [True, True], "the step ran once `one` served, and `two` started after the step"
    assert lifecycle.up(settings, console=null_console()) == []
    assert set(lifecycle.down(settings, null_console())) == {"one", "two"}
    assert not probes.port_open(settings.kafka_port)
    assert not probes.port_open(settings.exchange_port)
    assert lifecycle.down(settings, null_console()) == []


def test_up_starts_only_the_named_parts(settings: Settings, platform: Callable[..., None]) -> None:
    platform(serving("one", "kafka_port"), serving("two", "exchange_port"))
    assert lifecycle.up(settings, ["two"], null_console()) == ["two"]
    assert not probes.port_open(settings.kafka_port)
    first = pid_of(settings, "two")
    assert lifecycle.up(settings, ["one"], null_console()) == ["one"]
    assert pid_of(settings, "two") == first


def test_up_restarts_only_a_changed_part(settings: Settings, platform: Callable[..., None]) -> None:
    steady = serving("one", "kafka_port", command=lambda s: (sys.executable, "-c", SERVER, str(s.kafka_port), ""))
    platform(steady, serving("two", "exchange_port"))
    lifecycle.up(settings, console=null_console())
    before = pid_of(settings, "one")
    changed = settings.model_copy(update={"log_level": "ERROR"})
    assert lifecycle.up(changed, console=null_console()) == ["two"]
    assert pid_of(settings, "one") == before


def test_up_stops_a_part_that_is_no_longer_configured(settings: Settings, platform: Callable[..., None]) -> None:
    optional = serving("two", "exchange_port", is_local=lambda s: s.log_level != "ERROR")
    platform(serving("one", "kafka_port", ignores=lambda _: True), optional)
    lifecycle.up(settings, console=null_console())
    lifecycle.up(settings.model_copy(update={"log_level": "ERROR"}), console=null_console())
    assert set(Supervisor(settings).processes()) == {"one"}
    assert not probes.port_open(settings.exchange_port)


def test_part_that_dies_is_named_with_its_last_log_lines(settings: Settings, platform: Callable[..., None]) -> None:
    later = serving("later", "exchange_port", needs=("broken",))
    platform(failing("broken", "the disk is on fire"), later, serving("fine", "kafka_port"))
    with pytest.raises(PartError) as error:
        lifecycle.up(settings, console=null_console())
    for text in ("broken:", "the disk is on fire", str(settings.log_dir / "broken.log"), "cryptolake up"):
        assert text in str(error.value)
    assert pid_of(settings, "later") is None
    assert Supervisor(settings).processes()["broken"].state in ("STOPPED", "EXITED", "FATAL")


def test_part_that_never_serves_fails_after_its_timeout(settings: Settings, platform: Callable[..., None]) -> None:
    platform(serving("mute", "kafka_port", is_ready=lambda *_: False, start_timeout_s=1))
    with pytest.raises(PartError, match="mute: not ready after 1 s"):
        lifecycle.up(settings, console=null_console())
    assert pid_of(settings, "mute") is None


def test_killed_part_is_restarted(settings: Settings, platform: Callable[..., None]) -> None:
    platform(serving("one", "kafka_port"))
    lifecycle.up(settings, console=null_console())
    first = pid_of(settings, "one")
    assert first
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: pid_of(settings, "one") not in (None, first) and probes.port_open(settings.kafka_port))
    assert status(settings)[0].state == "running"


def test_one_part_is_restarted_stopped_and_started(settings: Settings, platform: Callable[..., None]) -> None:
    platform(serving("one", "kafka_port"), serving("two", "exchange_port"))
    with pytest.raises(PartError, match="not part of the running platform"):
        lifecycle.restart(settings, "one", null_console())
    lifecycle.up(settings, console=null_console())
    first, other = pid_of(settings, "one"), pid_of(settings, "two")
    lifecycle.restart(settings, "one", null_console())
    assert pid_of(settings, "one") not in (None, first)
    lifecycle.stop(settings, "one")
    assert [row.state for row in status(settings)] == ["stopped", "running"]
    assert any(problem.startswith("one: stopped") for problem in problems(settings))
    lifecycle.start(settings, "one", null_console())
    assert [row.state for row in status(settings)] == ["running", "running"]
    assert pid_of(settings, "two") == other


def test_part_that_does_not_start_again_is_tried_until_it_does(
    settings: Settings, platform: Callable[..., None], tmp_path: Path
) -> None:
    needed = tmp_path / "needed"
    needed.touch()
    code = f"import pathlib, time; pathlib.Path({str(needed)!r}).stat(); time.sleep(600)"
    platform(Part("one", lambda _: (sys.executable, "-c", code), lambda _, __: needed.exists()))
    lifecycle.up(settings, console=null_console())
    needed.unlink()
    with pytest.raises(PartError, match="one: crashed while starting"):
        lifecycle.restart(settings, "one", null_console())
    needed.touch()
    wait_for(lambda: status(settings)[0].state == "running")


def test_part_restarts_with_its_dependency(settings: Settings, platform: Callable[..., None]) -> None:
    platform(serving("one", "kafka_port"), serving("two", "exchange_port", restarts_with=("one",)))
    lifecycle.up(settings, console=null_console())
    before = pid_of(settings, "two")
    lifecycle.restart(settings, "one", null_console())
    assert pid_of(settings, "two") not in (None, before)


def test_up_restarts_an_unhealthy_part(settings: Settings, platform: Callable[..., None], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code = f"import pathlib, time; pathlib.Path({str(report)!r}).write_text('1'); time.sleep(600)"
    hanging = Part(
        "one",
        lambda _: (sys.executable, "-c", code),
        lambda _, started: probes.reporting(report, started),
        start_timeout_s=1,
    )
    platform(hanging)
    lifecycle.up(settings, console=null_console())
    before = pid_of(settings, "one")
    assert lifecycle.up(settings, console=null_console()) == []
    os.utime(report, (1, 1))
    info = Supervisor(settings).processes()["one"]
    wait_for(lambda: Supervisor(settings).processes()["one"].now_s - info.started_s > 1)
    assert status(settings)[0].state == "unhealthy"
    assert lifecycle.up(settings, console=null_console()) == ["one"]
    assert pid_of(settings, "one") not in (None, before)


def test_status_reports_port_process_and_uptime(settings: Settings, platform: Callable[..., None]) -> None:
    platform(serving("one", "kafka_port"))
    lifecycle.up(settings, console=null_console())
    (row,) = status(settings)
    assert (row.name, row.state, row.port) == ("one", "running", settings.kafka_port)
    assert row.pid == pid_of(settings, "one")
    assert row.uptime_s is not None
    assert 0 <= row.uptime_s < 60
    assert Path(row.log).exists()


def test_port_in_use_is_rejected_before_anything_starts(settings: Settings, platform: Callable[..., None]) -> None:
    platform(serving("one", "exchange_port"), serving("two", "kafka_port"))
    with socket.create_server(("127.0.0.1", settings.kafka_port)), pytest.raises(PortInUseError, match="two: port"):
        lifecycle.up(settings, console=null_console())
    assert not Supervisor(settings).is_running()


def test_full_disk_is_rejected(
    settings: Settings, platform: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform(serving("one", "kafka_port"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(HomeError, match=r"only 5 MB are free .* CRYPTOLAKE_HOME"):
        lifecycle.up(settings, console=null_console())


def test_home_that_is_a_file_is_rejected(tmp_path: Path, platform: Callable[..., None]) -> None:
    (tmp_path / "file").write_text("")
    platform(serving("one", "kafka_port"))
    with pytest.raises(HomeError, match=r"CRYPTOLAKE_HOME"):
        lifecycle.up(load_settings(home=tmp_path / "file"), console=null_console())


def test_log_of_an_earlier_failure_is_not_quoted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    start = log.stat().st_size
    log.write_text("old\nnew 1\nnew 2\n")
    assert lifecycle.tail_lines(log, 10, start) == ["new 1", "new 2"]
    assert lifecycle.tail_lines(log, 1) == ["new 2"]
    assert lifecycle.tail_lines(tmp_path / "absent", 5) == []
