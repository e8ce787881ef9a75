"""The request value of the clients in `http_client`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HttpRequest:
    """One GET below the client's base URL.

    `endpoint` is its name in Bronze and selects how a batch source's `parse` reads the response; `weight` is its cost
    in the server's rate limit.
    """

    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a key
    endpoint: str = ""
    weight: int = 1
