"""Settings that only the HTTP API and the dashboard use: addresses, access and memory limits.

A separate class, so that a change restarts only these parts and does not interrupt the stream or the graph.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from cryptolake_assets.settings.graph import named

MEBIBYTE = 1024 * 1024


class ApiSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    api_host: str = named(
        "CRYPTOLAKE_API_HOST",
        "127.0.0.1",
        "Listen address of the HTTP API. If it is not loopback, every request needs a key.",
    )
    api_port: Annotated[int, Field(ge=1, le=65535)] = named("CRYPTOLAKE_API_PORT", 8000, "Port of the HTTP API.")
    api_require_keys: bool = named("CRYPTOLAKE_API_REQUIRE_KEYS", False, "Require an API key on loopback, too.")
    api_rate_per_minute: int = named(
        "CRYPTOLAKE_API_RATE_PER_MINUTE", 6_000, "Maximum requests per minute for each key of the HTTP API.", ge=1
    )
    api_cors_origins: Annotated[tuple[str, ...], NoDecode] = named(
        "CRYPTOLAKE_API_CORS_ORIGINS",
        (),
        "CORS origins that may call the HTTP API from a browser, separated by commas. Empty: none.",
    )
    api_refresh_s: float = named(
        "CRYPTOLAKE_API_REFRESH_S",
        1.0,
        "Seconds between catalog polls of the HTTP API: the maximum age of a response relative to its table.",
        gt=0,
        le=60,
    )
    api_cache_mb: int = named(
        "CRYPTOLAKE_API_CACHE_MB", 128, "Maximum size of the response cache of the HTTP API in MiB.", ge=1, le=65_536
    )
    api_answer_mb: int = named(
        "CRYPTOLAKE_API_ANSWER_MB",
        32,
        "Maximum response size of the HTTP API as CSV, Parquet or Arrow in MiB; JSON is paged.",
        ge=1,
        le=4_096,
    )
    api_readers: int = named(
        "CRYPTOLAKE_API_READERS", 2, "Maximum concurrent table queries of the HTTP API.", ge=1, le=64
    )
    api_clients: int = named(
        "CRYPTOLAKE_API_CLIENTS", 200, "Maximum concurrent WebSocket and event-stream clients of the HTTP API.", ge=1
    )

    api_live: bool = named(
        "CRYPTOLAKE_API_LIVE",
        True,
        "Follow Kafka in the HTTP API: bars of trades that Silver lacks yet. Off: bars of the tables alone.",
    )

    dashboard_host: str = named(
        "CRYPTOLAKE_DASHBOARD_HOST",
        "127.0.0.1",
        "Listen address of the dashboard, which has no login: beyond loopback, put a proxy with authentication in "
        "front of it.",
    )
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] = named(
        "CRYPTOLAKE_DASHBOARD_PORT", 8501, "Port of the dashboard."
    )
    dashboard_api_url: str = named(
        "CRYPTOLAKE_DASHBOARD_API_URL", "", "Base URL of the HTTP API for the dashboard. Empty: the local API."
    )
    dashboard_api_key: SecretStr = named(
        "CRYPTOLAKE_DASHBOARD_API_KEY",
        SecretStr(""),
        "API key of the dashboard, with the scopes `read` and `operate`; needed if the API requires keys.",
    )
    dashboard_refresh_s: float = named(
        "CRYPTOLAKE_DASHBOARD_REFRESH_S",
        2.0,
        "Seconds between API polls of an open dashboard page.",
        gt=0,
        le=3_600,
    )

    @property
    def api_cache_bytes(self) -> int:
        return self.api_cache_mb * MEBIBYTE

    @property
    def api_answer_bytes(self) -> int:
        return self.api_answer_mb * MEBIBYTE

    @property
    def api_on_loopback(self) -> bool:
        """Return whether only this machine can reach the API."""
        return _on_loopback(self.api_host)

    @property
    def api_keys_required(self) -> bool:
        return self.api_require_keys or not self.api_on_loopback

    @property
    def api_url(self) -> str:
        """Base URL of the API for clients on this machine."""
        return _local_url(self.api_host, self.api_port)

    @property
    def dashboard_url(self) -> str:
        """URL of the dashboard for a browser on this machine."""
        return _local_url(self.dashboard_host, self.dashboard_port)

    @property
    def dashboard_reads(self) -> str:
        """Base URL of the API that the dashboard reads."""
        return self.dashboard_api_url.rstrip("/") or self.api_url


def _on_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _local_url(host: str, port: int) -> str:
    host = host if _on_loopback(host) else "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
