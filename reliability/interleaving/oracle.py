"""What must hold: from one commit to the next, and at the quiet end of a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptolake_assets.ingest.archive_days import SHA256_MARK
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.gap_ledger import TradeGap, read_gaps
from cryptolake_assets.lake.maintenance.expiry import QUERY_ID
from cryptolake_assets.model.coverage_rows import LOADING
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.transform.published_count import check_published
from cryptolake_tests.support.reference import reference_bars
from reliability.interleaving.scheduler import Actor, Violation
from reliability.interleaving.states import (
    BARS,
    BRONZE,
    QUARANTINE,
    Row,
    Rows,
    State,
    States,
    counted,
    difference,
)
from reliability.interleaving.workload import Issue
from reliability.interleaving.writers import World, refresh

BRONZE_SEQUENCE: Final = "cryptolake.bronze-sequence"
ARCHIVE_SHA: Final = "cryptolake.archive-sha256"
OF_BAR: Final = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "first_trade_id", "last_trade_id")


class Oracle:
    """Judges the commits of one seed, and its end."""

    def __init__(self, world: World, states: States) -> None:
        self._world, self._states = world, states
        self._issues = {issue.sha256: issue for issue in world.work.issues}
        self._emitted = reference_bars(world.work.emitted())
        states.checks += [self._bronze, self._bars, self._archive_coverage]

    def _bronze(self, _: Actor, table: str, before: State, after: State) -> None:
        """A commit adds exactly a batch of the stream, or replaces exactly an archive day."""
        if table != BRONZE or after.operation == "replace":
            return
        streamed_before, archived_before = _by_origin(before.rows)
        streamed, archived = _by_origin(after.rows)
        if QUERY_ID in after.properties:
            added = after.counted - before.counted
            if streamed_before - streamed or archived != archived_before or not added:
                raise Violation(
                    f"a batch of the stream changes other rows: {difference(before.counted, after.counted)}"
                )
        elif ARCHIVE_SHA in after.properties:
            issue = self._issues[after.properties[ARCHIVE_SHA]]
            if streamed != streamed_before:
                raise Violation(f"an archive day changes rows of the stream: {difference(streamed_before, streamed)}")
            of_day = [row for row in after.rows if _is_archived(row) and _is_of(issue, row)]
            others = Counter({row: number for row, number in archived.items() if not _is_of(issue, dict(row))})
            others_before = Counter({row: n for row, n in archived_before.items() if not _is_of(issue, dict(row))})
            if others != others_before:
                raise Violation(f"an archive day changes another day: {difference(others_before, others)}")
            _require_issue(issue, of_day)
        else:
            raise Violation(f"a commit without a known origin: {dict(after.properties)}")
        if max(streamed.values(), default=1) > 1:
            raise Violation("a Kafka record is in Bronze twice")

    def _bars(self, _: Actor, table: str, before: State, after: State) -> None:
        """Each changed bar equals a recount of the Bronze state that its run read; keys are unique."""
        if table != BARS or BRONZE_SEQUENCE not in after.properties:
            return
        old, new = (_bars_by_key(state.rows) for state in (before, after))
        sequence = int(after.properties[BRONZE_SEQUENCE])
        bronze = [state for _, state in self._states.tables[BRONZE].current if state.sequence <= sequence][-1]
        recounted = reference_bars(bronze.rows)
        for key in old.keys() | new.keys():
            if old.get(key) == new.get(key):
                continue
            if key not in new:
                if key in recounted:
                    raise Violation(f"bar {key} was removed, and Bronze has its trades")
            else:
                _require_bar(key, new[key], recounted.get(key))
                self._require_complete(key, new[key])

    def _archive_coverage(self, actor: Actor, table: str, before: State, after: State) -> None:
        """Only the archive changes its coverage, and only writers of the stream change that of the stream."""
        if table != "ops.stream_coverage":
            return
        both = [
            [counted(row for row in state.rows if _covers_archive(row) is kind) for kind in (True, False)]
            for state in (before, after)
        ]
        (archive_before, stream_before), (archive, stream) = both
        if actor.name.startswith("producer") and archive != archive_before:
            raise Violation(f"the producer changes coverage of the archive: {difference(archive_before, archive)}")
        if actor.name.startswith("archive") and stream != stream_before:
            raise Violation(f"the archive changes coverage of the stream: {difference(stream_before, stream)}")

    def _require_complete(self, key: tuple[Any, ...], bar: Row) -> None:
        """A complete bar has every trade that the exchange emitted."""
        if bar["is_complete"]:
            self._world.scheduler.states["bar_complete"] += 1
            _require_bar(key, bar, self._emitted.get(key))
            if bar["trades_dropped"]:
                raise Violation(f"bar {key} is complete, and {bar['trades_dropped']} trades were dropped")

    def judge_end(self) -> None:
        """Check the quiet lake. Raises `Violation`."""
        self._judge_bronze()
        self._judge_bars()
        self._judge_quarantine()
        self._judge_ledgers()
        self._judge_files()

    def _judge_bronze(self) -> None:
        rows = self._states.tables[BRONZE].head.rows
        offsets = Counter(
            (row["kafka_partition"], row["kafka_offset"], row["trade_id"]) for row in rows if not _is_archived(row)
        )
        sent = Counter((row["kafka_partition"], row["kafka_offset"], row["trade_id"]) for row in self._world.in_kafka)
        if offsets != sent:
            raise Violation(
                f"Bronze lacks {sorted(sent - offsets)[:5]} and has too many of {sorted(offsets - sent)[:5]}"
            )
        for issue in self._last_issues():
            _require_issue(issue, [row for row in rows if _is_archived(row) and _is_of(issue, row)])

    def _last_issues(self) -> Sequence[Issue]:
        return list({issue.file: issue for issue in self._world.work.issues}.values())

    def _judge_bars(self) -> None:
        settings = self._world.settings
        bars, recounted = (
            _bars_by_key(self._states.tables[BARS].head.rows),
            reference_bars(self._states.tables[BRONZE].head.rows),
        )
        if bars.keys() != recounted.keys():
            raise Violation(
                f"Silver lacks {sorted(recounted.keys() - bars)[:3]} and has {sorted(bars.keys() - recounted)[:3]}"
            )
        for key, bar in bars.items():
            _require_bar(key, bar, recounted[key])
            self._require_complete(key, bar)
        before = counted(self._states.tables[BARS].head.rows)
        for hour in self._world.work.hours:
            outcome = check_published(settings, hour)
            if not outcome.passed:
                raise Violation(f"published_count of {hour}: {outcome.description}")
        for hour in self._world.work.hours:
            if not refresh(settings, [hour], None, "rebuild"):
                raise Violation("the rebuild's candidate was rejected")
        after = counted(load_table(settings, settings.tables.bars).scan().to_arrow().to_pylist())
        if before != after:
            raise Violation(f"a rebuild changes bars that the follower left: {difference(before, after)}")

    def _judge_quarantine(self) -> None:
        rows = self._states.tables[QUARANTINE].head.rows
        found = Counter((row["symbol"], row["trade_id"]) for row in rows)
        received = {(row["symbol"], row["trade_id"]) for row in self._world.in_kafka}
        expected = Counter(self._world.work.broken & received)
        if found != expected:
            raise Violation(f"quarantine has {dict(found)}, expected {dict(expected)}")

    def _judge_ledgers(self) -> None:
        settings = self._world.settings
        gaps: dict[tuple[Any, ...], TradeGap] = {}
        for chunk in self._world.work.chunks:
            gaps.update({gap.key: gap for gap in chunk.gaps})
        stored = read_gaps(settings)
        if Counter(stored) != Counter(gaps.values()):
            raise Violation(f"gap ledger: {stored} instead of {list(gaps.values())}")
        coverage = read_coverage(settings)
        if any(row.kafka_partition == LOADING for row in coverage):
            raise Violation("a day is left as loading")
        for issue in self._last_issues():
            sources = {row.source.rpartition(SHA256_MARK)[2] for row in coverage if issue.file.path in row.source}
            if sources != {issue.sha256}:
                raise Violation(f"coverage of {issue.file.name} is of {sources}, not of {issue.sha256}")
        for claim in (claim for chunk in self._world.work.chunks for claim in chunk.claims):
            rows = sorted(
                (row.connected_from_ms, row.connected_to_ms)
                for row in coverage
                if row.symbol == claim.symbol and not row.of_archive
            )
            reached = claim.connected_from_ms
            for from_ms, to_ms in rows:
                if from_ms <= reached:
                    reached = max(reached, to_ms)
            if reached < claim.connected_to_ms:
                raise Violation(f"the coverage claimed by {claim} is lost from {reached} on")

    def _judge_files(self) -> None:
        """Every file of every remaining snapshot exists and is readable."""
        for spec in TABLES:
            name = ".".join(spec.identifier)
            states = self._states.tables.get(name)
            for snapshot_id in states.retained if states else ():
                missing = (
                    [path for path in states.by_id[snapshot_id].files if not Path(path).exists()] if states else []
                )
                if missing:
                    raise Violation(f"snapshot {snapshot_id} of {name} lacks {missing[:3]}")
        table = load_table(self._world.settings, self._world.settings.tables.trades)
        if not Path(local_path(table.metadata_location)).exists():
            raise Violation("the metadata file is missing")


def _is_archived(row: Row) -> bool:
    return row.get("kafka_offset") is None


def _by_origin(rows: Sequence[Row]) -> tuple[Rows, Rows]:
    return counted(row for row in rows if not _is_archived(row)), counted(row for row in rows if _is_archived(row))


def _is_of(issue: Issue, row: Row) -> bool:
    return bool(row["symbol"] == issue.file.symbol and row["event_time"].date() == issue.file.day)


def _require_issue(issue: Issue, rows: Sequence[Row]) -> None:
    found = Counter(row["trade_id"] for row in rows)
    expected = Counter(line.agg_id for line in issue.lines)
    if found != expected:
        missing, surplus = sorted(expected - found)[:5], sorted(found - expected)[:5]
        raise Violation(f"{issue.file.name}: Bronze lacks {missing}, has too many of {surplus}")


def _covers_archive(row: Row) -> bool:
    return row.get("kafka_partition") in (None, LOADING)


def _bars_by_key(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    found = {(row["exchange"], row["symbol"], row["window_start"]): row for row in rows}
    if len(found) != len(rows):
        raise Violation("a bar is there twice")
    return found


def _require_bar(key: tuple[Any, ...], bar: Row, expected: dict[str, Any] | None) -> None:
    if expected is None:
        raise Violation(f"bar {key} has no trades")
    differing = [name for name in OF_BAR if bar[name] != expected[name]]
    if differing:
        shown = ", ".join(f"{name} {bar[name]} instead of {expected[name]}" for name in differing)
        raise Violation(f"bar {key}: {shown}")
