"""Small questions to a running part: does it listen, does it answer, has it reported."""

from __future__ import annotations

import json
import socket
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

TIMEOUT_S = 2.0
REPORT_MAX_AGE_S = 60.0
"""Parts write their progress about once a second: an older file is that of one that hangs."""

_DAEMON_QUERY = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } } }"


def port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


def _status(url: str) -> int | None:
    """Return the status that a GET is answered with; None where nothing answers."""
    import httpx

    try:
        return httpx.get(url, timeout=TIMEOUT_S, trust_env=False).status_code
    except httpx.HTTPError:
        return None


def http_ok(url: str) -> bool:
    """Whether a GET is answered with 200."""
    return _status(url) == HTTPStatus.OK


def http_answers(url: str) -> bool:
    """Whether a GET is answered, with whatever status."""
    return _status(url) is not None


def http_json(url: str) -> dict[str, Any]:
    """The JSON object that a GET answers; empty when there is none."""
    import httpx

    try:
        answer = httpx.get(url, timeout=TIMEOUT_S, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def file_json(path: Path) -> dict[str, Any]:
    """The JSON object in a progress file; empty when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def reporting(path: Path, started_s: float) -> bool:
    """Whether a part that started at `started_s` (epoch seconds) has written its progress file, and lately."""
    try:
        written_s = path.stat().st_mtime
    except OSError:
        return False
    return written_s >= started_s and time.time() - written_s < REPORT_MAX_AGE_S


def grpc_serves(target: str, service: str) -> bool:
    """Whether a gRPC server at `target` (`host:port`, `unix:path`) says that it serves, by gRPC's health protocol."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    try:
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            answer = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=TIMEOUT_S * 5)
    except grpc.RpcError:
        return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def webserver_answers(dagster_address: str) -> bool:
    """Whether the Dagster webserver serves."""
    return http_ok(f"{dagster_address}/server_info")


def daemon_healthy(dagster_address: str, started_s: float) -> bool:
    """Whether the webserver has seen a heartbeat of every required daemon since `started_s` (epoch seconds)."""
    import httpx

    url = f"{dagster_address}/graphql"
    try:
        answer = httpx.post(url, json={"query": _DAEMON_QUERY}, timeout=TIMEOUT_S * 5, trust_env=False).json()
        statuses = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    required = [status for status in statuses if status["required"]]
    return bool(required) and all(
        status["healthy"] and (status["lastHeartbeatTime"] or 0) >= started_s for status in required
    )
