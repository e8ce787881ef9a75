"""Health probes of running parts: open port, HTTP or gRPC response, recent report."""

from __future__ import annotations

import socket
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

TIMEOUT_S = 2.0
REPORT_MAX_AGE_S = 60.0  # parts report about once a second; an older report means that the part hangs

_DAEMON_QUERY = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } } }"


def port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts TCP connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


def _status(url: str) -> int | None:
    """Return the status code of a GET; None without a response."""
    import httpx

    try:
        return httpx.get(url, timeout=TIMEOUT_S, trust_env=False).status_code
    except httpx.HTTPError:
        return None


def http_ok(url: str) -> bool:
    """Return whether a GET returns 200."""
    return _status(url) == HTTPStatus.OK


def http_responds(url: str) -> bool:
    """Return whether a GET returns any status."""
    return _status(url) is not None


def http_json(url: str) -> dict[str, Any]:
    """Return the JSON object of a GET's response; empty if there is none."""
    import httpx

    try:
        content = httpx.get(url, timeout=TIMEOUT_S, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def reporting(path: Path, started_s: float) -> bool:
    """Return whether a part has written its progress file recently and after `started_s` (epoch seconds)."""
    try:
        written_s = path.stat().st_mtime
    except OSError:
        return False
    return written_s >= started_s and time.time() - written_s < REPORT_MAX_AGE_S


def grpc_serves(target: str, service: str) -> bool:
    """Return whether a gRPC server at `target` (`host:port`, `unix:path`) serves, by gRPC's health protocol."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    try:
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            response = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=TIMEOUT_S * 5)
    except grpc.RpcError:
        return False
    return bool(response.status == HealthCheckResponse.SERVING)


def webserver_serves(dagster_address: str) -> bool:
    """Return whether the Dagster webserver serves."""
    return http_ok(f"{dagster_address}/server_info")


def daemon_healthy(dagster_address: str, started_s: float) -> bool:
    """Return whether every required daemon is healthy and has sent a heartbeat since `started_s` (epoch seconds)."""
    import httpx

    url = f"{dagster_address}/graphql"
    try:
        response = httpx.post(url, json={"query": _DAEMON_QUERY}, timeout=TIMEOUT_S * 5, trust_env=False).json()
        statuses = response["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    required = [status for status in statuses if status["required"]]
    return bool(required) and all(
        status["healthy"] and (status["lastHeartbeatTime"] or 0) >= started_s for status in required
    )
