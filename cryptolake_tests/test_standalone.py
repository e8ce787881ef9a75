"""Servers that stop with a test or a measurement, and Java requirements of a local Spark cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cryptolake_assets.errors import JavaNotFoundError, PartError
from cryptolake_assets.platform import jvm
from cryptolake_assets.platform.probes import port_open
from cryptolake_tests.support import servers, standalone


def test_server_listens_inside_its_context_only(tmp_path: Path) -> None:
    port = servers.free_port()
    command = (sys.executable, "-m", "http.server", str(port), "--bind", servers.LOOPBACK)
    with servers.running(servers.start("files", command, port, tmp_path)) as server:
        assert port_open(port)
        assert server.log == tmp_path / "files.log"
    assert server.process.poll() is not None
    assert not port_open(port)


def test_server_that_exits_is_reported_with_its_log_tail(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such table')")
    with pytest.raises(PartError, match=r"exit code 1(?s:.*)no such table"):
        servers.start("files", command, servers.free_port(), tmp_path)


@pytest.mark.parametrize("modules", ["java.base@17.0.15\njdk.incubator.vector@17.0.15", "java.base@17.0.15"])
def test_trimmed_java_is_rejected_before_a_start(modules: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable = tmp_path / "java"
    executable.write_text(f"#!/bin/sh\necho '{modules}'\n")
    executable.chmod(0o755)
    monkeypatch.setattr(standalone, "find_java", lambda: jvm.Java(executable, 17, "PATH"))
    if standalone.EXECUTOR_MODULE in modules:
        standalone.require_full_jdk()
    else:
        with pytest.raises(JavaNotFoundError, match="full JDK"), standalone.spark_cluster(tmp_path, 1):
            pytest.fail("a cluster was started")
