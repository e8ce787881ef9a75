"""Inputs of a run's checks, as of the start of the run. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.rules import RuleContext


@dataclass(frozen=True)
class RunInputs:
    """Inputs of a run; `exchange_time_ms` is the latest known exchange time (None if unknown)."""

    exchange_time_ms: int | None
    rules: RuleContext
    completeness: CompletenessIndex
