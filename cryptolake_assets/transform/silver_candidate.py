"""Silver's bars before they are published: which minutes of an hour are touched, their bars, and the gate's verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from cryptolake_assets.ingest.klines import read_klines
from cryptolake_assets.lake.bronze_files import added_files, current_sequence, files_between, scan_trades
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import keys_of, read_window
from cryptolake_assets.lake.coverage import Evidence
from cryptolake_assets.lake.duck import open_duckdb, scalar
from cryptolake_assets.lake.windows import DAY, HOUR, MINUTE, day_of, hour_of, silver_day
from cryptolake_assets.model.bar_tables import SILVER_OHLCV
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.measures import DUCKDB
from cryptolake_assets.model.trade_tables import BRONZE_TRADES
from cryptolake_assets.quality.bar_checks import ROW_CHECKS, check_counts
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome, check_candidate
from cryptolake_assets.quality.minute_bars import (
    MINUTE_MS,
    EvidenceOf,
    MinuteAggregates,
    RowCounts,
    bars_from_aggregates,
    epoch_ms,
)
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.quality.warnings import Bar, bars_after, observe_hour
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_assets.transform.quarantine import advance_quarantine, quarantined_between
from cryptolake_assets.transform.rejected_count import count_rejected
from cryptolake_assets.transform.run_context import observe

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

NOT_FROM_TRADES = ("is_complete", "evidence", "updated_at", "trades_dropped")
"""Columns that tell two bars of the same trades apart; bars of earlier releases have no count of dropped trades."""


@dataclass(frozen=True)
class SilverCandidate:
    """An hour's bars that wait for the gate, and what is known of them.

    `bars` are all columns of the table; `replaced_keys` the bars that go when the candidate is published. `outcomes`
    are the blocking checks, `observations` the others. `hour_bars` are all bars that the hour would then have.
    """

    hour: datetime
    bars: pa.Table
    hour_bars: Sequence[Bar]
    replaced_keys: pa.Table
    counts: RowCounts
    rows_rejected: int
    outcomes: list[CheckOutcome]
    observations: list[CheckOutcome]
    duration_ms: int

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def incomplete_minutes(self) -> int:
        return int(self.bars.num_rows - sum(self.bars["is_complete"].to_pylist()))


class SilverRun:
    """What the hours of one run share: what was known when it began, and the Bronze snapshot after that."""

    def __init__(self, settings: Settings, engine: AggregationEngine, run_id: str) -> None:
        self.settings = settings
        self.engine = engine
        self.run_id = run_id
        self.inputs: RunInputs = observe(settings)
        self.bronze: Table = load_table(settings, BRONZE_TRADES)
        self.bronze_snapshot: int | None = self.bronze.metadata.current_snapshot_id
        self.bronze_sequence: int = current_sequence(self.bronze)
        self.quarantined: int = advance_quarantine(settings, self.bronze, self.inputs.rules, run_id)
        self._day: _Day | None = None

    def day(self, hour: datetime) -> _Day:
        """What the tables hold of the hour's day; read once a day."""
        start = day_of(hour)
        if self._day is None or self._day.start != start:
            self._day = _Day(
                start=start,
                bars=read_window(load_table(self.settings, SILVER_OHLCV), silver_day(start)),
                klines=read_klines(self.settings, start, start + DAY),
                rejected=count_rejected(self.settings, start, start + DAY),
            )
        return self._day


@dataclass(frozen=True)
class _Day:
    """A UTC day: its bars as they are published, official klines, and refused frames by hour of receipt."""

    start: datetime
    bars: pa.Table
    klines: dict[tuple[str, int], Kline]
    rejected: Counter[datetime]

    def bars_of(self, hour: datetime) -> pa.Table:
        import pyarrow.compute as pc

        starts = self.bars["window_start"]
        return self.bars.filter(pc.and_(pc.greater_equal(starts, hour), pc.less(starts, hour + HOUR)))


@dataclass(frozen=True)
class RunScope:
    """A part of the bars: those of some symbols (all of them if empty) whose minutes begin in [start, end)."""

    symbols: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None

    @property
    def is_all(self) -> bool:
        return not self.symbols and self.start is None and self.end is None

    def of(self, keys: pa.Table) -> pa.Table:
        """The rows of `keys` (symbol, window_start) that lie in it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.symbols:
            keys = keys.filter(pc.is_in(keys["symbol"], value_set=pa.array(self.symbols, pa.string())))
        if self.start is not None:
            keys = keys.filter(pc.greater_equal(keys["window_start"], self.start))
        if self.end is not None:
            keys = keys.filter(pc.less(keys["window_start"], self.end))
        return keys


EVERYTHING = RunScope()


def prepare(run: SilverRun, hour: datetime, from_sequence: int | None, scope: RunScope = EVERYTHING) -> SilverCandidate:
    """Recomputes the minutes that Bronze files of `from_sequence` and later touch; the whole hour without it.

    Bars that were incomplete and may be complete by now are recomputed too. `scope` narrows all that. Nothing is
    published.
    """
    if from_sequence is None and scope.is_all:
        return next(prepare_hours(run, [hour]))
    started = time.monotonic()
    minutes = scope.of(_touched(run, hour, from_sequence))
    if run.bronze_snapshot is None or not minutes.num_rows:
        return _candidate(run, hour, minutes, None, started)
    ((_, aggregates),) = run.engine.minute_aggregates(run.bronze_snapshot, [hour], minutes, run.inputs.rules)
    return _candidate(run, hour, minutes, aggregates, started)


def prepare_hours(run: SilverRun, hours: Sequence[datetime]) -> Iterator[SilverCandidate]:
    """Recomputes every minute of consecutive hours, one candidate an hour. Nothing is published."""
    started = time.monotonic()
    if run.bronze_snapshot is None:
        for hour in hours:
            yield _candidate(run, hour, None, None, started)
        return
    for hour, aggregates in run.engine.minute_aggregates(run.bronze_snapshot, hours, None, run.inputs.rules):
        yield _candidate(run, hour, None, aggregates, started)
        started = time.monotonic()


def _candidate(
    run: SilverRun, hour: datetime, minutes: pa.Table | None, aggregates: MinuteAggregates | None, started: float
) -> SilverCandidate:
    """Bars, checks and observations of an hour; `aggregates` is None when no minute of it is touched."""
    day = run.day(hour)
    present = day.bars_of(hour)
    bars, counts, outcomes = SILVER_OHLCV.arrow_schema().empty_table(), RowCounts(), []
    if aggregates is not None and run.bronze_snapshot is not None:
        counts = aggregates.counts
        bars = _keep_proven(bars_from_aggregates(aggregates.rows, _evidence_of_minutes(run.inputs)), present)
        expected = _bronze_rows(run.bronze, run.bronze_snapshot, hour, minutes)
        outcomes = check_counts(
            counts,
            expected,
            run.settings.drop_ratio_limit,
            partial(quarantined_between, run.settings, hour, hour + HOUR, SAMPLE_ROWS),
        )
    replaced_keys = keys_of(SILVER_OHLCV, present, bars) if minutes is None else minutes
    hour_bars = bars_after(present, bars, replaced_keys)
    with open_duckdb() as duck:
        outcomes = [*check_candidate(duck, SILVER_OHLCV, bars, ROW_CHECKS["silver"]), *outcomes]
    return SilverCandidate(
        hour=hour,
        bars=bars,
        hour_bars=hour_bars,
        replaced_keys=replaced_keys,
        counts=counts,
        rows_rejected=day.rejected[hour],
        outcomes=outcomes,
        observations=observe_hour(
            hour,
            hour_bars,
            day.klines,
            run.inputs,
            run.settings.event_time_lag_limit_in_use_s,
            run.settings.kline_tolerance,
        ),
        duration_ms=round((time.monotonic() - started) * 1000),
    )


def hours_to_complete(
    settings: Settings, inputs: RunInputs, start_ms: int = 0, end_ms: int | None = None
) -> set[datetime]:
    """Hours of Silver that hold an incomplete bar whose minute is complete by what coverage says now; only of minutes
    that touch [start_ms, end_ms), so that history is not read for what has just been covered."""
    wanted = "is_complete = false"
    if start_ms:
        wanted += f" and window_start > '{(_moment(start_ms) - MINUTE).isoformat()}'"
    if end_ms is not None:
        wanted += f" and window_start < '{_moment(end_ms).isoformat()}'"
    fields = ("symbol", "window_start", "trades_dropped")
    incomplete = load_table(settings, SILVER_OHLCV).scan(row_filter=wanted, selected_fields=fields)
    return {hour_of(row["window_start"]) for row in incomplete.to_arrow().to_pylist() if _may_be_complete(row, inputs)}


def _moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def _touched(run: SilverRun, hour: datetime, from_sequence: int | None) -> pa.Table:
    """Distinct (symbol, window_start): of the hour's files from `from_sequence` on, and of bars to be completed; all
    that the hour has or had without a sequence."""
    import pyarrow as pa

    files = [file for file in added_files(run.bronze, (from_sequence or 1) - 1) if file.hour == hour]
    waiting = [
        row
        for row in run.day(hour).bars_of(hour).to_pylist()
        if from_sequence is None or (not row["is_complete"] and _may_be_complete(row, run.inputs))
    ]
    schema = pa.schema([SILVER_OHLCV.arrow_schema().field(name) for name in SILVER_OHLCV.key])
    with open_duckdb() as duck:
        waiting_keys = {name: [row[name] for row in waiting] for name in SILVER_OHLCV.key}
        duck.register("waiting", pa.table(waiting_keys, schema=schema))
        union = "SELECT symbol, window_start FROM waiting"
        if files:
            union += f" UNION SELECT symbol, {DUCKDB.minute} FROM {scan_trades(duck, files)}"
        keys = duck.sql(f"SELECT DISTINCT * FROM ({union}) ORDER BY ALL").to_arrow_table()
    return keys.cast(schema)


def _bronze_rows(bronze: Table, snapshot_id: int, hour: datetime, minutes: pa.Table | None) -> int:
    """Bronze's own count of the window, independent of the engine."""
    if minutes is None:
        return sum(file.rows for file in files_between(bronze, snapshot_id, hour, hour + HOUR))
    starts = minutes["window_start"].to_pylist()
    files = files_between(bronze, snapshot_id, min(starts), max(starts) + MINUTE)
    with open_duckdb() as duck:
        duck.register("minutes", minutes)
        return scalar(
            duck,
            f"""SELECT count(*) FROM {scan_trades(duck, files)} AS trades
            SEMI JOIN minutes ON trades.symbol = minutes.symbol AND {DUCKDB.minute} = minutes.window_start""",
        )


def _evidence_of_minutes(inputs: RunInputs) -> EvidenceOf:
    def evidence_of(symbol: str, stream: str, start_ms: int) -> Evidence | None:
        return inputs.completeness.evidence(symbol, stream, start_ms, start_ms + MINUTE_MS)

    return evidence_of


def _may_be_complete(row: dict[str, object], inputs: RunInputs) -> bool:
    start_ms = epoch_ms(row["window_start"])  # type: ignore[arg-type]
    if row["trades_dropped"]:
        return False
    return inputs.completeness.is_complete_on_any_stream(str(row["symbol"]), start_ms, start_ms + MINUTE_MS)


def _keep_proven(bars: pa.Table, present: pa.Table) -> pa.Table:
    """A bar that was complete and has not changed stays complete, also while Bronze catches up with new coverage.

    Not one that klines proved: they do not wait for Bronze, and a reissue of them takes back what they said.
    """
    import pyarrow as pa

    names = [name for name in SILVER_OHLCV.column_names if name not in NOT_FROM_TRADES]
    proven = {tuple(row[name] for name in names): row for row in present.to_pylist() if _is_proven(row)}
    if not proven:
        return bars
    rows = bars.to_pylist()
    for row in rows:
        before = proven.get(tuple(row[name] for name in names))
        if before is not None and not row["is_complete"] and not row["trades_dropped"]:
            row |= {"is_complete": True, "evidence": before["evidence"]}
    return pa.Table.from_pylist(rows, schema=bars.schema)


def _is_proven(row: dict[str, object]) -> bool:
    return bool(row["is_complete"]) and row["evidence"] != Evidence.KLINES
