"""What was known when a run started, as its checks use it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.rules import RuleContext


@dataclass(frozen=True)
class RunInputs:
    """`exchange_time_ms` is the furthest exchange time known, None when nothing is."""

    exchange_time_ms: int | None
    rules: RuleContext
    completeness: CompletenessIndex
