"""The settings that only the readers use: where the HTTP API listens, who may ask, and how much memory it takes.

A class of their own, so that a change of one restarts the readers and does not interrupt the stream or the graph.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode

from cryptolake_assets.settings_graph import named

MEBIBYTE = 1024 * 1024


class ApiSettings(BaseSettings):
    """Part of `settings.Settings`, which says where values come from."""

    api_host: str = named(
        "CRYPTOLAKE_API_HOST",
        "127.0.0.1",
        "Address that the HTTP API listens on. On any other than loopback every request needs a key.",
    )
    api_port: Annotated[int, Field(ge=1, le=65535)] = named("CRYPTOLAKE_API_PORT", 8000, "Port of the HTTP API.")
    api_require_keys: bool = named(
        "CRYPTOLAKE_API_REQUIRE_KEYS", False, "Whether the HTTP API asks for a key on loopback too."
    )
    api_rate_per_minute: int = named(
        "CRYPTOLAKE_API_RATE_PER_MINUTE", 6_000, "Requests a minute that one key of the HTTP API may make.", ge=1
    )
    api_cors_origins: Annotated[tuple[str, ...], NoDecode] = named(
        "CRYPTOLAKE_API_CORS_ORIGINS",
        (),
        "Origins whose pages may call the HTTP API from a browser, separated by commas. Empty: none.",
    )
    api_refresh_s: float = named(
        "CRYPTOLAKE_API_REFRESH_S",
        1.0,
        "Seconds between two looks of the HTTP API at the catalog: an answer is at most so much older than the table.",
        gt=0,
        le=60,
    )
    api_cache_mb: int = named(
        "CRYPTOLAKE_API_CACHE_MB", 128, "Memory of the HTTP API for finished answers, MiB.", ge=1, le=65_536
    )
    api_answer_mb: int = named(
        "CRYPTOLAKE_API_ANSWER_MB",
        32,
        "Largest answer of the HTTP API as CSV, Parquet or Arrow, MiB; JSON comes in pages.",
        ge=1,
        le=4_096,
    )
    api_readers: int = named(
        "CRYPTOLAKE_API_READERS", 2, "Most queries of the HTTP API that read tables at the same time.", ge=1, le=64
    )
    api_clients: int = named(
        "CRYPTOLAKE_API_CLIENTS", 200, "Most WebSocket and event-stream clients of the HTTP API at the same time.", ge=1
    )

    @property
    def api_cache_bytes(self) -> int:
        return self.api_cache_mb * MEBIBYTE

    @property
    def api_answer_bytes(self) -> int:
        return self.api_answer_mb * MEBIBYTE

    @property
    def api_on_loopback(self) -> bool:
        """Whether only this machine can reach the API."""
        if self.api_host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.api_host).is_loopback
        except ValueError:
            return False

    @property
    def api_keys_required(self) -> bool:
        return self.api_require_keys or not self.api_on_loopback

    @property
    def api_url(self) -> str:
        """Base URL of the API for a reader on this machine."""
        host = self.api_host if self.api_on_loopback else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.api_port}"
