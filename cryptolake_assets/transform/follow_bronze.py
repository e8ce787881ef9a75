"""Find the Silver hours that new Bronze files, new coverage and archive loads touched since the last tick.

`lake.bronze_follower` keeps the state, and a `FollowedLake` reads the tables.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.bronze.offsets import committed_offsets
from cryptolake_assets.captures.tracked_symbols import default_start_date
from cryptolake_assets.lake.bronze_files import BronzeFile, added_files, current_sequence, oldest_sequence_by_hour
from cryptolake_assets.lake.bronze_follower import FULL_HOUR, FollowerState, rows_by_hour, split_hours
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import archive_rows_since
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.model.windows import HOUR, day_of, hour_of
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.load_inputs import NEVER, load_run_inputs
from cryptolake_assets.transform.silver_run import outdated_hours

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from cryptolake_assets.binance.stream_type import Capabilities

FULL_SEARCH_S = 3_600.0  # interval of searches of all of Silver for complete bars, not only newly covered time
RECENT = timedelta(days=2)  # coverage of this time of the exchange's clock is compared at each check
RECENT_ON_OUR_CLOCK = timedelta(minutes=10)  # of our clock too: in a fast replay Bronze may be days behind


@dataclass
class SearchMemory:
    """The coverage at the last check, and the time of the last search of all of Silver.

    Used only if it matches the cursor's coverage version; otherwise one tick searches all of Silver.
    """

    coverage_version: str | None = None
    completeness: CompletenessIndex | None = None
    searched_at_s: float = 0.0  # of `FollowedLake.monotonic_s`


class FollowedLake(Protocol):
    """The reads of the follower from a family's lake."""

    @property
    def memory(self) -> SearchMemory:
        """The state of earlier ticks, kept in the process only."""

    @property
    def clock_factor(self) -> float:
        """Maximum seconds of the exchange's clock per second of this machine's."""

    def monotonic_s(self) -> float: ...

    def first_hour(self) -> datetime:
        """Return the first hour that may be a partition."""

    def current_sequence(self) -> int:
        """Return the sequence number of Bronze's current snapshot."""

    def added_files(self, after_sequence: int) -> Sequence[BronzeFile]:
        """Return Bronze's live files above a sequence number."""

    def coverage_version(self) -> str:
        """Return a text that changes with coverage, the family's gaps and Bronze's committed offsets."""

    def run_inputs(self, start: datetime | None = None, end: datetime | None = None) -> RunInputs:
        """Return the inputs of a run of [start, end); None means no bound."""

    def outdated_hours(self, known: RunInputs, start_ms: int = 0, end_ms: int | None = None) -> set[datetime]:
        """Return the hours with a bar in [start_ms, end_ms) that is to become complete, or incomplete."""

    def archive_rows_since(self, since: datetime | None) -> Sequence[tuple[CoverageRow, datetime]]:
        """Return the archive rows written after `since`, with their write times."""


class StoredLake:
    """`FollowedLake` of the settings' family; `table` is a Bronze table of it."""

    # By home and family, because each tick makes a new one.
    _memories: ClassVar[dict[tuple[Path, Family], SearchMemory]] = {}

    def __init__(self, settings: Settings, table: Table) -> None:
        self._settings = settings
        self._table = table

    @property
    def memory(self) -> SearchMemory:
        return self._memories.setdefault((self._settings.home, self._settings.venue.family), SearchMemory())

    @property
    def clock_factor(self) -> float:
        return self._settings.clock_factor

    def monotonic_s(self) -> float:
        return time.monotonic()

    def first_hour(self) -> datetime:
        return datetime.combine(default_start_date(self._settings), datetime.min.time(), UTC)

    def current_sequence(self) -> int:
        return current_sequence(self._table)

    def added_files(self, after_sequence: int) -> list[BronzeFile]:
        return added_files(self._table, after_sequence)

    def coverage_version(self) -> str:
        settings = self._settings
        coverage = load_table(settings, OPS_COVERAGE).metadata.current_snapshot_id
        gaps = load_table(settings, settings.tables.gaps).metadata.current_snapshot_id
        committed = committed_offsets(settings, TRADES_OF_FAMILY[settings.venue.family])
        offsets = ",".join(f"{number}:{offset}" for number, offset in sorted(committed.items()))
        return f"{coverage}/{gaps}/{offsets}"

    def run_inputs(self, start: datetime | None = None, end: datetime | None = None) -> RunInputs:
        return load_run_inputs(self._settings, start, end)

    def outdated_hours(self, known: RunInputs, start_ms: int = 0, end_ms: int | None = None) -> set[datetime]:
        return outdated_hours(self._settings, known, start_ms, end_ms)

    def archive_rows_since(self, since: datetime | None) -> list[tuple[CoverageRow, datetime]]:
        return archive_rows_since(self._settings, since)


def mark_touched_hours(lake: FollowedLake, state: FollowerState, capabilities: Capabilities) -> Mapping[datetime, int]:
    """Mark the hours of a stream's Silver with new data as pending; return rows by hour outside the partitions."""
    files = [*_files_before_the_old_start(lake, state), *lake.added_files(state.sequence)]
    state.sequence = max(state.sequence, lake.current_sequence())
    coverage_version = lake.coverage_version() if capabilities.coverage else state.coverage
    has_coverage = coverage_version != state.coverage or bool(_hours_to_recheck(state))
    if not files and not has_coverage:
        return {}
    known = lake.run_inputs(NEVER, NEVER)
    outside = _mark_hours_of_files(state, files, known.rules, quarantine=capabilities.quarantine)
    if has_coverage:
        _mark_completed_hours(lake, state, known, coverage_version)
    return outside


def proven_until_ms(lake: FollowedLake) -> int:
    """Return the time until which coverage was proven at the last check; 0 if this process has checked none."""
    completeness = lake.memory.completeness
    return 0 if completeness is None else completeness.proven_until_ms()


def _files_before_the_old_start(lake: FollowedLake, state: FollowerState) -> list[BronzeFile]:
    """Return processed files of hours that became partitions because their start date was moved back."""
    start = lake.first_hour()
    before, state.start = state.start, start.isoformat()
    if not before or start >= datetime.fromisoformat(before):
        return []
    return [
        file
        for file in lake.added_files(0)
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


def _hours_to_recheck(state: FollowerState) -> set[datetime]:
    """Return the hours whose coverage must be checked again and that are no longer pending."""
    return {hour for hour in map(datetime.fromisoformat, state.look_again) if hour.isoformat() not in state.pending}


def _mark_completed_hours(lake: FollowedLake, state: FollowerState, known: RunInputs, coverage_version: str) -> None:
    """Mark as pending the hours with bars that coverage has made complete since the last check."""
    rules = known.rules
    hours = _completed(lake, known.exchange_time_ms, state.coverage, coverage_version)
    if recheck := _hours_to_recheck(state):
        first, last = min(recheck), max(recheck) + HOUR
        found = lake.run_inputs(first, last)
        hours |= lake.outdated_hours(found, epoch_ms(first), epoch_ms(last)) & recheck
    hours = {hour for hour in hours if rules.earliest <= hour <= rules.latest}
    # A pending hour's run may have started before this coverage was written: check the hour again afterwards.
    waiting = {hour.isoformat() for hour in hours}.union(state.look_again) & state.pending.keys()
    for hour in hours:
        if hour.isoformat() not in waiting:
            state.touch(hour, state.sequence + 1)
    state.look_again = sorted(waiting)
    state.coverage = coverage_version
    _mark_archive_hours(lake, state, rules)


def _mark_archive_hours(lake: FollowedLake, state: FollowerState, rules: RuleContext) -> None:
    """Mark every hour of newly loaded archive days as pending.

    A re-issued file may lack trades of an earlier one, which no new file shows.
    """
    loaded = lake.archive_rows_since(datetime.fromisoformat(state.archive) if state.archive else None)
    for day in sorted({day_of(_moment(row.connected_from_ms)) for row, _ in loaded}):
        for hour in (day + number * HOUR for number in range(24)):
            if rules.earliest <= hour <= rules.latest:
                state.touch(hour, FULL_HOUR)
    if loaded:
        state.archive = max(at for _, at in loaded).isoformat()


def _completed(lake: FollowedLake, exchange_time_ms: int | None, before: str, coverage_version: str) -> set[datetime]:
    """Return hours with bars that may be complete: in newly covered time, or in all of Silver at intervals.

    `before` is the version of the coverage checked last. Time that was covered later than `RECENT` is found at the next
    search of all of Silver, so a check does not read the history.
    """
    memory, now_s = lake.memory, lake.monotonic_s()
    checked = memory.completeness if memory.coverage_version == before else None
    start = _start_of_recent(lake.clock_factor, exchange_time_ms)
    recent = lake.run_inputs(start)
    memory.coverage_version, memory.completeness = coverage_version, recent.completeness
    if checked is None or now_s - memory.searched_at_s > FULL_SEARCH_S:
        memory.searched_at_s = now_s
        return lake.outdated_hours(lake.run_inputs())
    changed = recent.completeness.changed(checked)
    if not changed:
        return set()
    is_recent = start is None or changed[0] >= epoch_ms(start)
    known = recent if is_recent else lake.run_inputs(*map(_moment, changed))
    return lake.outdated_hours(known, *changed)


def _start_of_recent(clock_factor: float, exchange_time_ms: int | None) -> datetime | None:
    """Return the start of the time whose coverage each check compares; None for all time."""
    margin_s = max(RECENT.total_seconds(), RECENT_ON_OUR_CLOCK.total_seconds() * clock_factor)
    if exchange_time_ms is None or exchange_time_ms / 1000 < margin_s:
        return None
    return _moment(exchange_time_ms) - timedelta(seconds=margin_s)


def _moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
