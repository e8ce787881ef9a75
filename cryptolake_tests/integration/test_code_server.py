"""The process of a code server, as the supervisor starts it: ready once its code has loaded or failed to load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._grpc.client import DagsterGrpcClient

from cryptolake_assets.defs.instance.pools import pools
from cryptolake_assets.platform import code_servers
from cryptolake_assets.platform.parts import dagster_files, part_named
from cryptolake_assets.settings import PROJECT_ROOT, Settings, load_settings
from cryptolake_tests.support.servers import free_port
from cryptolake_tests.support.waiting import wait_for

LOADED_S = 120.0
"""Limit per server on two busy cores; about 5 s on idle ones."""
(LOCATION, *_) = code_servers.locations()
FAILING = """
import sys
from cryptolake_assets.defs.code_server import serve
from cryptolake_assets.platform.code_servers import CodeLocation
serve(CodeLocation("failing", "no_such_module"), sys.argv[1:])
"""


@pytest.fixture(params=["socket", "port"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    at_port = {"code_server_host": "127.0.0.1", "code_server_port": free_port()} if request.param == "port" else {}
    made = load_settings(home=tmp_path, **at_port)
    for path, text in dagster_files(made).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    yield made
    code_servers.prepare(made, LOCATION)


@contextmanager
def started(settings: Settings, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run this command in the environment of the code server's part."""
    environment = part_named(LOCATION.part).spec(settings)["environment"]
    assert isinstance(environment, dict)
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def client(settings: Settings) -> DagsterGrpcClient:
    if settings.code_server_host:
        return DagsterGrpcClient(host=settings.code_server_host, port=code_servers.port(settings, LOCATION))
    return DagsterGrpcClient(socket=str(code_servers.socket_path(settings, LOCATION)))


def test_server_is_ready_once_its_code_is_loaded_and_the_pools_exist(settings: Settings) -> None:
    command = code_servers.command(settings, LOCATION)
    for _ in range(2):  # the second one finds the files of the first, which was killed
        assert not code_servers.is_ready(settings, LOCATION)
        with started(settings, command) as process:
            wait_for(lambda: code_servers.is_ready(settings, LOCATION), timeout_s=LOADED_S)
            assert "__repository__" in client(settings).list_repositories()
            assert process.poll() is None
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        assert {pool.name for pool in instance.event_log_storage.get_pool_limits()} == set(pools())


def test_server_whose_code_fails_to_load_is_ready_and_reports_the_error(settings: Settings) -> None:
    address = code_servers.command(settings, LOCATION)[4:]
    with started(settings, [sys.executable, "-c", FAILING, *address]):
        wait_for(lambda: code_servers.is_ready(settings, LOCATION), timeout_s=LOADED_S)
        assert "no_such_module" in client(settings).list_repositories()


def test_unknown_location_ends_the_process_with_an_error(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", code_servers.MODULE, "nowhere"], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr == "argument location: workspace.yaml has no code location nowhere.\n"
