"""Health probes of code servers by gRPC's health protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from cryptolake_assets.errors import ArgumentError
from cryptolake_assets.platform import code_servers
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.servers import free_port

Serve = Callable[[str], HealthServicer]
(LOCATION, *_) = code_servers.locations()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a gRPC server at an address and returns its health servicer."""
    servers: list[grpc.Server] = []

    def start(address: str) -> HealthServicer:
        health = HealthServicer()
        server = grpc.server(ThreadPoolExecutor(1))
        add_HealthServicer_to_server(health, server)
        server.add_insecure_port(address)
        server.start()
        servers.append(server)
        return health

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = load_settings(home=tmp_path)
    yield made
    code_servers.prepare(made, LOCATION)


def test_server_is_ready_once_it_reports_serving(settings: Settings, serve: Serve) -> None:
    assert not code_servers.is_ready(settings, LOCATION)
    health = serve(f"unix:{code_servers.socket_path(settings, LOCATION)}")
    assert not code_servers.is_ready(settings, LOCATION), "the server has no service with this name yet"
    health.set(code_servers.SERVICE, HealthCheckResponse.NOT_SERVING)
    assert not code_servers.is_ready(settings, LOCATION)
    health.set(code_servers.SERVICE, HealthCheckResponse.SERVING)
    assert code_servers.is_ready(settings, LOCATION)


def test_server_on_another_machine_is_probed_at_its_address(settings: Settings, serve: Serve) -> None:
    port = free_port()
    remote = settings.model_copy(update={"code_server_host": "127.0.0.1", "code_server_port": port})
    assert not code_servers.is_ready(remote, LOCATION)
    serve(f"127.0.0.1:{port}").set(code_servers.SERVICE, HealthCheckResponse.SERVING)
    assert code_servers.is_ready(remote, LOCATION)


def test_socket_of_a_killed_server_is_not_ready_and_is_removed(settings: Settings) -> None:
    path = code_servers.socket_path(settings, LOCATION)
    path.touch()
    assert not code_servers.is_ready(settings, LOCATION)
    code_servers.prepare(settings, LOCATION)
    assert not path.exists()


def test_unknown_location_is_rejected() -> None:
    with pytest.raises(ArgumentError, match=r"workspace\.yaml has no code location nowhere"):
        code_servers.location_named("nowhere")
