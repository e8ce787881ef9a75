"""Plan, build and check the candidate of a Silver hour.

Every function takes values and returns values; none publishes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptolake_assets.lake.bronze_files import BronzeFile, scan_trades
from cryptolake_assets.lake.commit import keys_of
from cryptolake_assets.lake.duck import open_duckdb, scalar
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.model.measures import DUCKDB
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import HOUR, MINUTE, MINUTE_MS
from cryptolake_assets.quality.bar_checks import ROW_CHECKS, check_counts
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import MinuteAggregates, RowCounts, bars_from_aggregates, epoch_ms
from cryptolake_assets.quality.official_bars import Klines
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.quality.warnings import Bar, bars_after, observe_hour
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

# Columns that may differ between two bars of the same trades; bars of earlier releases lack the last two.
NOT_FROM_TRADES = ("is_complete", "evidence", "updated_at", "trades_dropped", "stream")


@dataclass(frozen=True)
class SilverDay:
    """Stored data of a UTC day: the published bars, official klines, rejected frames by hour of receipt."""

    start: datetime
    bars: pa.Table
    klines: Klines
    rejected: Counter[datetime]

    def bars_of(self, hour: datetime) -> pa.Table:
        import pyarrow.compute as pc

        starts = self.bars["window_start"]
        return self.bars.filter(pc.and_(pc.greater_equal(starts, hour), pc.less(starts, hour + HOUR)))


@dataclass(frozen=True)
class RunScope:
    """A subset of the bars: of the given exchanges and symbols (all if empty), with minutes in [start, end)."""

    symbols: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    exchanges: tuple[str, ...] = ()

    @property
    def is_all(self) -> bool:
        return self == EVERYTHING

    def of(self, keys: pa.Table) -> pa.Table:
        """Return the rows of `keys` (exchange, symbol, window_start) in this scope."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for column, values in (("exchange", self.exchanges), ("symbol", self.symbols)):
            if values:
                keys = keys.filter(pc.is_in(keys[column], value_set=pa.array(values, pa.string())))
        if self.start is not None:
            keys = keys.filter(pc.greater_equal(keys["window_start"], self.start))
        if self.end is not None:
            keys = keys.filter(pc.less(keys["window_start"], self.end))
        return keys


EVERYTHING = RunScope()


@dataclass(frozen=True)
class HourPlan:
    """The minutes (exchange, symbol, window_start) of an hour to recompute; None: every minute."""

    hour: datetime
    minutes: pa.Table | None = None

    @property
    def is_empty(self) -> bool:
        return self.minutes is not None and not self.minutes.num_rows


@dataclass(frozen=True)
class SilverCandidate:
    """An hour's bars before publication, with their counts and checks.

    `bars` has all columns of the table; `replaced_keys` are the bars that publication replaces; `hour_bars` are all
    bars of the hour afterwards. `outcomes` are the blocking checks, `observations` the non-blocking ones: both are
    empty until the candidate is checked.
    """

    hour: datetime
    bars: pa.Table
    hour_bars: Sequence[Bar]
    replaced_keys: pa.Table
    counts: RowCounts
    rows_rejected: int
    outcomes: Sequence[CheckOutcome] = ()
    observations: Sequence[CheckOutcome] = ()
    duration_ms: int = field(default=0, compare=False)

    @property
    def passed(self) -> bool:
        return bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)

    @property
    def incomplete_minutes(self) -> int:
        return int(self.bars.num_rows - sum(self.bars["is_complete"].to_pylist()))


def plan_hour(
    bars: TableSpec,
    known: RunInputs,
    files: Sequence[BronzeFile],
    present: pa.Table,
    hour: datetime,
    from_sequence: int | None,
    scope: RunScope = EVERYTHING,
) -> HourPlan:
    """Return the minutes that Bronze files of `from_sequence` and later touch; all minutes if it is None.

    Includes the minutes of bars whose completeness has changed. `present` are the hour's rows of the table
    `bars`; `scope` restricts the minutes.
    """
    if from_sequence is None and scope.is_all:
        return HourPlan(hour)
    touching = [file for file in files if file.sequence >= (from_sequence or 0)]
    recomputed = [row for row in present.to_pylist() if from_sequence is None or is_outdated(row, known.completeness)]
    return HourPlan(hour, scope.of(_minutes_of(bars, touching, recomputed)))


def _minutes_of(spec: TableSpec, files: Sequence[BronzeFile], bars: Sequence[Bar]) -> pa.Table:
    """Return the distinct keys of the files' trades and of the bars (rows of the table `spec`), in order."""
    import pyarrow as pa

    schema = pa.schema([spec.arrow_schema().field(name) for name in spec.key])
    with open_duckdb() as duck:
        duck.register("bars", pa.table({name: [row[name] for row in bars] for name in spec.key}, schema=schema))
        union = "SELECT exchange, symbol, window_start FROM bars"
        if files:
            union += f" UNION SELECT exchange, symbol, {DUCKDB.minute} FROM {scan_trades(duck, files)}"
        found = duck.sql(f"SELECT DISTINCT * FROM ({union}) ORDER BY ALL").to_arrow_table()
    return found.cast(schema)


def build_candidate(
    spec: TableSpec, known: RunInputs, day: SilverDay, plan: HourPlan, aggregates: MinuteAggregates | None
) -> SilverCandidate:
    """Build the hour's bars, rows of the table `spec`, from an engine's aggregates; None if no minute is touched."""
    present, schema = day.bars_of(plan.hour), spec.arrow_schema()
    bars, counts = schema.empty_table(), RowCounts()
    if aggregates is not None:

        def evidence_of(exchange: str, symbol: str, stream: str, start_ms: int) -> Evidence | None:
            return known.completeness.evidence(exchange, symbol, stream, start_ms, start_ms + MINUTE_MS)

        bars = bars_from_aggregates(aggregates.rows, evidence_of, schema)
        bars = _keep_proven(bars, present, known.completeness)
        counts = aggregates.counts
    replaced_keys = keys_of(spec, present, bars) if plan.minutes is None else plan.minutes
    return SilverCandidate(
        hour=plan.hour,
        bars=bars,
        hour_bars=bars_after(present, bars, replaced_keys),
        replaced_keys=replaced_keys,
        counts=counts,
        rows_rejected=day.rejected[plan.hour],
    )


def check(
    settings: Settings, known: RunInputs, day: SilverDay, candidate: SilverCandidate, expected_rows: int | None
) -> SilverCandidate:
    """Return the candidate with the outcomes of its checks.

    `expected_rows` is Bronze's own count of the rows that the engine read; None if it read nothing.
    """
    with open_duckdb() as duck:
        outcomes = check_candidate(duck, settings.tables.bars, candidate.bars, ROW_CHECKS["silver"])
    if expected_rows is not None:
        outcomes += check_counts(candidate.counts, expected_rows, settings.drop_ratio_limit)
    lag_limit_s, tolerance = settings.event_time_lag_limit_in_use_s, settings.kline_tolerance
    observations = observe_hour(candidate.hour, candidate.hour_bars, day.klines, known, lag_limit_s, tolerance)
    return replace(candidate, outcomes=outcomes, observations=observations)


def bronze_rows(files: Sequence[BronzeFile], minutes: pa.Table | None) -> int:
    """Count the trades of an hour's files, or of the given minutes, independently of the engines."""
    if minutes is None:
        return sum(file.rows for file in files)
    starts = minutes["window_start"].to_pylist()
    files = [file for file in files if file.earliest < max(starts) + MINUTE and file.latest >= min(starts)]
    if not files:
        return 0
    with open_duckdb() as duck:
        duck.register("minutes", minutes)
        return scalar(
            duck,
            f"""SELECT count(*) FROM {scan_trades(duck, files)} AS trades
            SEMI JOIN minutes ON trades.exchange = minutes.exchange AND trades.symbol = minutes.symbol
              AND {DUCKDB.minute} = minutes.window_start""",
        )


def may_be_complete(row: Bar, completeness: CompletenessIndex) -> bool:
    """Return whether coverage contains the full minute of an incomplete bar without dropped trades."""
    if row["trades_dropped"]:
        return False
    start_ms = epoch_ms(row["window_start"])
    return completeness.is_complete_on_any_stream(row["exchange"], row["symbol"], start_ms, start_ms + MINUTE_MS)


def is_outdated(row: Bar, completeness: CompletenessIndex) -> bool:
    """Return whether coverage has completed an incomplete bar since, or a gap was found in a complete one."""
    if not row["is_complete"]:
        return may_be_complete(row, completeness)
    return _is_proven(row) and _may_lack_trades(row, completeness)


def _may_lack_trades(row: Bar, completeness: CompletenessIndex) -> bool:
    start_ms = epoch_ms(row["window_start"])
    return row["stream"] is not None and completeness.may_lack_trades(
        row["exchange"], row["symbol"], row["stream"], start_ms, start_ms + MINUTE_MS
    )


def _keep_proven(bars: pa.Table, present: pa.Table, completeness: CompletenessIndex) -> pa.Table:
    import pyarrow as pa

    proven = [row for row in present.to_pylist() if _is_proven(row)]
    if not proven:
        return bars
    return pa.Table.from_pylist(keep_proven_rows(bars.to_pylist(), proven, completeness), schema=bars.schema)


def keep_proven_rows(
    rows: list[dict[str, Any]], present: Iterable[Bar], completeness: CompletenessIndex
) -> list[dict[str, Any]]:
    """Keep unchanged complete bars complete, even while Bronze catches up with new coverage.

    Bars proven by klines are excluded: klines do not wait for Bronze, and reissued klines withdraw the evidence. So are
    bars in which a gap was found since: a barrier proves nothing if the exchange had silently lost the subscription.
    """
    names = [name for name in (rows[0] if rows else ()) if name not in NOT_FROM_TRADES]
    proven = {tuple(row[name] for name in names): row for row in present if _is_proven(row)}
    for row in rows if proven else ():
        before = proven.get(tuple(row[name] for name in names))
        if (
            before is not None
            and not row["is_complete"]
            and not row["trades_dropped"]
            and not _may_lack_trades(row, completeness)
        ):
            row |= {"is_complete": True, "evidence": before["evidence"]}
    return rows


def _is_proven(row: Bar) -> bool:
    return bool(row["is_complete"]) and row["evidence"] != Evidence.KLINES
