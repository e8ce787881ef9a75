"""Inputs of a run's checks, as of the start of the run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.rules import RuleContext


@dataclass(frozen=True)
class RunInputs:
    """Inputs of a run; `exchange_time_ms` is the latest known exchange time (None if unknown).

    `bronze_offsets` is the next offset by Kafka partition: all records below it are in Bronze.
    """

    exchange_time_ms: int | None
    rules: RuleContext
    completeness: CompletenessIndex
    bronze_offsets: Mapping[int, int]
