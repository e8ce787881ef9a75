"""What is known of the world when a run starts, as its checks use it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cryptolake_assets.lake.coverage import CoverageRow
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.rules import RuleContext


@dataclass(frozen=True)
class RunInputs:
    """`exchange_time_ms` is the furthest exchange time known, None when nothing is."""

    coverage: tuple[CoverageRow, ...]
    bronze_offsets: dict[int, int]
    exchange_time_ms: int | None
    rules: RuleContext
    completeness: CompletenessIndex
