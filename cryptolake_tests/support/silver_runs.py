"""Direct runs of Silver and Gold, without Dagster: one hour, many hours, a day."""

from __future__ import annotations

from datetime import date, datetime

from cryptolake_assets.lake.commit import Publication
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.gold_run import GoldCandidate, run_gold
from cryptolake_assets.transform.silver_candidate import SilverCandidate
from cryptolake_assets.transform.silver_run import run_silver


def refresh(
    settings: Settings, engine: AggregationEngine, hour: datetime, from_sequence: int | None = None
) -> tuple[SilverCandidate, Publication | None]:
    """Refresh the minutes of an hour changed by Bronze files since `from_sequence`; all minutes if it is None."""
    (day,) = run_silver(settings, engine, [hour], "test", from_sequence=from_sequence)
    (candidate,) = day.candidates
    return candidate, day.publication


def rebuild(settings: Settings, engine: AggregationEngine, first: datetime, last: datetime) -> list[SilverCandidate]:
    """Recompute every minute of the hours in [first, last)."""
    hours = [first + number * HOUR for number in range((last - first) // HOUR)]
    return [candidate for day in run_silver(settings, engine, hours, "test") for candidate in day.candidates]


def refresh_day(settings: Settings, engine: AggregationEngine, day: date) -> tuple[GoldCandidate, Publication]:
    """Refresh a day of Gold; fail if a check fails."""
    candidate, publication = run_gold(settings, engine, day, "test")
    assert publication is not None, [outcome for outcome in candidate.outcomes if not outcome.passed]
    return candidate, publication
