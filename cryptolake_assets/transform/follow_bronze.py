"""Find the Silver hours that new Bronze files, new coverage and archive loads touched since the last tick.

`lake.bronze_follower` keeps the state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.bronze.offsets import committed_offsets
from cryptolake_assets.captures.tracked_symbols import default_start_date
from cryptolake_assets.lake.bronze_files import BronzeFile, added_files, current_sequence, oldest_sequence_by_hour
from cryptolake_assets.lake.bronze_follower import FULL_HOUR, FollowerState, rows_by_hour, split_hours
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import archive_rows_since
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.model.windows import HOUR, day_of, hour_of
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.load_inputs import NEVER, load_run_inputs
from cryptolake_assets.transform.silver_run import hours_to_complete

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from cryptolake_assets.binance.stream_type import Capabilities

FULL_SEARCH_S = 3_600.0  # interval of searches of all of Silver for complete bars, not only newly covered time
RECENT = timedelta(days=2)  # coverage of this time of the exchange's clock is compared at each check
RECENT_ON_OUR_CLOCK = timedelta(minutes=10)  # of our clock too: in a fast replay Bronze may be days behind


def mark_touched_hours(
    settings: Settings, state: FollowerState, table: Table, capabilities: Capabilities
) -> Mapping[datetime, int]:
    """Mark the hours of a stream's Silver with new data as pending; return rows by hour outside the partitions."""
    files = [*_files_before_the_old_start(settings, state, table), *added_files(table, state.sequence)]
    state.sequence = max(state.sequence, current_sequence(table))
    coverage_version = _coverage_version(settings) if capabilities.coverage else state.coverage
    has_coverage = coverage_version != state.coverage or bool(_hours_to_recheck(state))
    if not files and not has_coverage:
        return {}
    known = load_run_inputs(settings, NEVER, NEVER)
    outside = _mark_hours_of_files(state, files, known.rules, quarantine=capabilities.quarantine)
    if has_coverage:
        _mark_completed_hours(settings, state, known, coverage_version)
    return outside


def _files_before_the_old_start(settings: Settings, state: FollowerState, table: Table) -> list[BronzeFile]:
    """Return processed files of hours that became partitions because their start date was moved back."""
    start = datetime.combine(default_start_date(settings), datetime.min.time(), UTC)
    before, state.start = state.start, start.isoformat()
    if not before or start >= datetime.fromisoformat(before):
        return []
    return [
        file
        for file in added_files(table, 0)
        if start <= file.hour < datetime.fromisoformat(before) and file.sequence <= state.sequence
    ]


def _mark_hours_of_files(
    state: FollowerState, files: Sequence[BronzeFile], rules: RuleContext, *, quarantine: bool
) -> dict[datetime, int]:
    """Mark the hours of new files as pending; return rows by hour outside the partitions."""
    rows = rows_by_hour((file.hour, file.rows) for file in files)
    hours = split_hours(oldest_sequence_by_hour(files), rows, rules.earliest, rules.latest)
    for hour, sequence in hours.inside.items():
        state.touch(hour, sequence)
    if quarantine and hours.outside and not hours.inside:
        # A run of the open hour quarantines these events, although they touch no partition.
        open_hour = hour_of(rules.latest - timedelta(minutes=1))
        state.touch(max(open_hour, rules.earliest), state.sequence + 1)
    state.arrived({hour: rows[hour] for hour in hours.inside})
    return hours.outside


def _coverage_version(settings: Settings) -> str:
    """Return a version text that changes with coverage, the family's gaps and Bronze's committed offsets."""
    coverage = load_table(settings, OPS_COVERAGE).metadata.current_snapshot_id
    gaps = load_table(settings, settings.tables.gaps).metadata.current_snapshot_id
    committed = committed_offsets(settings, TRADES_OF_FAMILY[settings.venue.family])
    offsets = ",".join(f"{number}:{offset}" for number, offset in sorted(committed.items()))
    return f"{coverage}/{gaps}/{offsets}"


def _hours_to_recheck(state: FollowerState) -> set[datetime]:
    """Return the hours whose coverage must be checked again and that are no longer pending."""
    return {hour for hour in map(datetime.fromisoformat, state.look_again) if hour.isoformat() not in state.pending}


def _mark_completed_hours(settings: Settings, state: FollowerState, known: RunInputs, coverage_version: str) -> None:
    """Mark as pending the hours with bars that coverage has made complete since the last check."""
    rules = known.rules
    hours = _completed(settings, known.exchange_time_ms, state.coverage, coverage_version)
    if recheck := _hours_to_recheck(state):
        first, last = min(recheck), max(recheck) + HOUR
        found = load_run_inputs(settings, first, last)
        hours |= hours_to_complete(settings, found, epoch_ms(first), epoch_ms(last)) & recheck
    hours = {hour for hour in hours if rules.earliest <= hour <= rules.latest}
    # A pending hour's run may have started before this coverage was written: check the hour again afterwards.
    waiting = {hour.isoformat() for hour in hours}.union(state.look_again) & state.pending.keys()
    for hour in hours:
        if hour.isoformat() not in waiting:
            state.touch(hour, state.sequence + 1)
    state.look_again = sorted(waiting)
    state.coverage = coverage_version
    _mark_archive_hours(settings, state, rules)


def _mark_archive_hours(settings: Settings, state: FollowerState, rules: RuleContext) -> None:
    """Mark every hour of newly loaded archive days as pending.

    A re-issued file may lack trades of an earlier one, which no new file shows.
    """
    loaded = archive_rows_since(settings, datetime.fromisoformat(state.archive) if state.archive else None)
    for day in sorted({day_of(_moment(row.connected_from_ms)) for row, _ in loaded}):
        for hour in (day + number * HOUR for number in range(24)):
            if rules.earliest <= hour <= rules.latest:
                state.touch(hour, FULL_HOUR)
    if loaded:
        state.archive = max(at for _, at in loaded).isoformat()


@dataclass(frozen=True)
class _CheckedCoverage:
    """Coverage at the last check, and the time of the last search of all of Silver."""

    coverage_version: str
    completeness: CompletenessIndex
    searched_at_s: float


# Cache by home and family, used only if it matches the cursor's coverage version; otherwise one tick searches all of
# Silver.
_checked_coverage: dict[tuple[Path, Family], _CheckedCoverage] = {}


def _completed(settings: Settings, exchange_time_ms: int | None, before: str, coverage_version: str) -> set[datetime]:
    """Return hours with bars that may be complete: in newly covered time, or in all of Silver at intervals.

    `before` is the version of the coverage checked last. Time that was covered later than `RECENT` is found at the next
    search of all of Silver, so a check does not read the history.
    """
    key = settings.home, settings.venue.family
    checked = _checked_coverage.get(key)
    start = _start_of_recent(settings, exchange_time_ms)
    recent = load_run_inputs(settings, start)
    if (
        checked is None
        or checked.coverage_version != before
        or time.monotonic() - checked.searched_at_s > FULL_SEARCH_S
    ):
        _checked_coverage[key] = _CheckedCoverage(coverage_version, recent.completeness, time.monotonic())
        return hours_to_complete(settings, load_run_inputs(settings))
    _checked_coverage[key] = replace(checked, coverage_version=coverage_version, completeness=recent.completeness)
    gained = recent.completeness.gained(checked.completeness)
    if not gained:
        return set()
    is_recent = start is None or gained[0] >= epoch_ms(start)
    known = recent if is_recent else load_run_inputs(settings, *map(_moment, gained))
    return hours_to_complete(settings, known, *gained)


def _start_of_recent(settings: Settings, exchange_time_ms: int | None) -> datetime | None:
    """Return the start of the time whose coverage each check compares; None for all time."""
    margin_s = max(RECENT.total_seconds(), RECENT_ON_OUR_CLOCK.total_seconds() * settings.clock_factor)
    if exchange_time_ms is None or exchange_time_ms / 1000 < margin_s:
        return None
    return _moment(exchange_time_ms) - timedelta(seconds=margin_s)


def _moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
