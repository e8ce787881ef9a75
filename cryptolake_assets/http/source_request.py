"""What is asked of a batch source. Pure; the client is in `source_client`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceRequest:
    """One GET below the source's base URL. `endpoint` is its name in Bronze, and tells `judge` what to expect."""

    endpoint: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
