"""Silver of one family in memory: the follower's ticks and the runs that they request.

The ticks are the product's own (`transform.follow_bronze`, `lake.bronze_follower`). A run is a generator that reads its
inputs, then Bronze's snapshot, and publishes later; between two reads other parts of the simulation go on, and at each
of them the run may end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from random import Random
from typing import Any, Final

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.lake.bronze_files import BronzeFile
from cryptolake_assets.lake.bronze_follower import FollowerState, RunState, SilverRequest
from cryptolake_assets.lake.coverage import CoverageExtent
from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.markets import Family, exchanges_of
from cryptolake_assets.model.windows import HOUR, MINUTE_MS, hour_of
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import STREAM_PREFERENCE, bar_rows, epoch_ms
from cryptolake_assets.quality.rules import Instrument, RuleContext, known_symbols
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.transform.follow_bronze import SearchMemory, mark_touched_hours, proven_until_ms
from cryptolake_assets.transform.load_inputs import latest_trade_time
from cryptolake_assets.transform.silver_candidate import is_outdated, keep_proven_rows
from reliability.simulation.simulated_lake import (
    Identity,
    MinuteKey,
    SimulatedLake,
    StoredMinute,
    StoredTrade,
    moment,
)

MAX_RUNS_IN_FLIGHT: Final = 24
HOURS_A_RUN: Final = 24
MAX_EVENTS_A_TICK: Final = 100
TABLE: Final = "bronze"  # id of the Bronze table in the cursor
BarKey = tuple[str, str, datetime]  # exchange, symbol, start of the minute


class RunFate(StrEnum):
    """What happens to a Silver run."""

    SUCCEEDS = "succeeds"
    FAILS = "fails"  # before it publishes
    KILLED = "killed"  # after it published and before anyone sees its success
    SLOW = "slow"


@dataclass
class SimulatedRun:
    """A requested run of these hours; `steps` yields the seconds until its next step."""

    hours: Sequence[datetime]
    steps: Iterator[float]
    next_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SilverOptions:
    """Times of the follower and of runs, in seconds."""

    interval_s: float = 90.0  # between two requests of an hour without a further proven minute
    queued_s: tuple[float, float] = (0.5, 5.0)  # before a run reads anything
    read_s: tuple[float, float] = (0.0, 1.0)  # between two reads
    run_s: tuple[float, float] = (0.5, 8.0)  # between the last read and the publication
    slow_s: float = 600.0


class SimulatedSilver:
    """The bars of a family, their follower and runs; a `FollowedLake`.

    `exchange_time_ms` returns the exchange's clock (None: it does not respond), `tracked` the tracked symbols.
    """

    def __init__(
        self,
        lake: SimulatedLake,
        family: Family,
        random: Random,
        *,
        start: datetime,
        exchange_time_ms: Callable[[], int | None],
        tracked: Callable[[], Iterable[Instrument]],
        options: SilverOptions | None = None,
    ) -> None:
        self._lake, self._random, self._start = lake, random, start
        self._bronze, self._gaps = lake.family(family)
        self._exchanges = exchanges_of(family)
        self._exchange_time_ms, self._tracked = exchange_time_ms, tracked
        self._options = options or SilverOptions()
        self._now = 0.0
        self._wall_ms = 0
        self.cursor: str | None = None
        self._copy: str | None = None
        self._memory = SearchMemory()
        self._requests: dict[str, RunState] = {}
        self._queue: deque[SimulatedRun] = deque()  # the first one runs: Silver has one writer
        self.next_fates: deque[RunFate] = deque()  # of the next runs; others succeed
        self.bars: dict[BarKey, dict[str, Any]] = {}
        self._incomplete: dict[BarKey, dict[str, Any]] = {}
        self._quarantined: dict[Identity, int] = {}  # out of range on arrival, with the trade's time (µs)
        self._judged_to = 0  # Bronze's sequence up to which trades were judged
        self.runs: Counter[str] = Counter()  # by outcome
        self.ticks = 0

    # Faults of the platform.

    def restart(self) -> None:
        """Forget what the follower's process remembers."""
        self._memory = SearchMemory()

    def lose_cursor(self, *, with_copy: bool) -> None:
        """Lose the cursor, and the copy next to the tables."""
        self.cursor = None
        if with_copy:
            self._copy = None

    def kill_runs(self) -> None:
        """End the active and all queued runs, as if the daemon and its runs were killed."""
        self._queue.clear()
        for request, state in self._requests.items():
            if state is RunState.IN_FLIGHT:
                self._requests[request] = RunState.FAILED

    # The follower.

    def advance(self, now: float) -> None:
        """Let the active run take the steps that are due by `now` (epoch seconds of this machine)."""
        self._now = now
        while self._queue and (run := self._queue[0]).next_at <= now:
            delay_s = next(run.steps, None)
            if delay_s is None:
                self._queue.popleft()
                if self._queue:
                    self._queue[0].next_at = now
            else:
                run.next_at = now + delay_s

    def tick(self, now: float, *, wall_s: float | None = None, is_saved: bool = True) -> None:
        """Tick once at `now`, in the order of the sensor.

        `wall_s` is this machine's clock, which may jump; default: `now`. If not `is_saved`, the process ends before its
        cursor is saved and its runs are launched.
        """
        self.advance(now)
        self._wall_ms = int(1_000 * (now if wall_s is None else wall_s))
        now = self._wall_ms / 1_000
        self.ticks += 1
        state = FollowerState.restored(self.cursor, lambda: self._copy, TABLE)
        if self.cursor is None:
            state.epoch = f"{self._random.getrandbits(32):08x}"  # the product's own is not of the seed
        mark_touched_hours(self, state, TRADES.capabilities)
        busy = {hour for run in self._queue for hour in run.hours}
        state.settle(lambda request: self._requests.get(request, RunState.FAILED), now)
        interval_s = self._options.interval_s
        requests = state.due_requests(
            lambda hour: hour in busy, now, MAX_RUNS_IN_FLIGHT, interval_s, HOURS_A_RUN, proven_until_ms(self)
        )
        state.reports(now, MAX_EVENTS_A_TICK, interval_s)
        cursor = state.to_cursor()
        if cursor != self.cursor:
            self._copy = cursor
        if is_saved:
            self.cursor = cursor
            for request in requests:
                self._launch(request)

    @property
    def is_idle(self) -> bool:
        """Return whether no run is in flight and no hour is pending."""
        state = FollowerState.from_cursor(self.cursor)
        return not self._queue and state is not None and state.is_idle

    def _launch(self, request: SilverRequest) -> None:
        fate = self.next_fates.popleft() if self.next_fates else RunFate.SUCCEEDS
        self._requests[request.request] = RunState.IN_FLIGHT
        run = SimulatedRun(request.hours, self._run(request, fate), self._now)
        self._queue.append(run)

    def complete_minutes(self) -> set[BarKey]:
        """Return the minutes with a complete bar."""
        return self.bars.keys() - self._incomplete.keys()

    # `FollowedLake`.

    @property
    def memory(self) -> SearchMemory:
        return self._memory

    @property
    def clock_factor(self) -> float:
        return 1.0

    def monotonic_s(self) -> float:
        return self._now

    def first_hour(self) -> datetime:
        return self._start

    def current_sequence(self) -> int:
        return self._bronze.sequence

    def added_files(self, after_sequence: int) -> list[BronzeFile]:
        return self._bronze.added_files(after_sequence)

    def coverage_version(self) -> str:
        offsets = ",".join(f"{number}:{offset}" for number, offset in sorted(self._bronze.committed.items()))
        return f"{self._lake.coverage.version}/{self._gaps.version}/{offsets}"

    def run_inputs(self, start: datetime | None = None, end: datetime | None = None) -> RunInputs:
        """Return the inputs of [start, end), read at once."""
        start_ms, end_ms = _ms(start), _ms(end)
        offsets = dict(self._bronze.committed)
        coverage, extent = self._lake.coverage.between(self._exchanges, start_ms, end_ms)
        gaps = self._gaps.missing(offsets, start_ms, end_ms)
        rules = self._rules(extent, start_ms, end_ms)
        index = CompletenessIndex(coverage, offsets, self._lake.grace_ms, gaps)
        return RunInputs(self._latest_ms(extent), rules, index, offsets)

    def outdated_hours(self, known: RunInputs, start_ms: int = 0, end_ms: int | None = None) -> set[datetime]:
        first, last = moment(max(0, start_ms - MINUTE_MS)), datetime.max.replace(tzinfo=UTC)
        last = last if end_ms is None else moment(end_ms)
        # As the product does: of the complete bars, only those near missing trades.
        bars = self.bars if known.completeness.missing(start_ms, end_ms) else self._incomplete
        return {
            hour_of(key[2])
            for key, bar in bars.items()
            if first < key[2] < last and is_outdated(bar, known.completeness)
        }

    def archive_rows_since(self, since: datetime | None) -> list[tuple[CoverageRow, datetime]]:  # noqa: ARG002
        return []  # no archive

    # Runs.

    def _run(self, request: SilverRequest, fate: RunFate) -> Iterator[float]:
        """Recompute the hours' minutes that files of the request's sequence and later touch, like `run_silver`."""
        yield self._seconds(self._options.queued_s)
        start_ms, end_ms = epoch_ms(request.hours[0]), epoch_ms(request.hours[-1] + HOUR)
        # In the order of `load_inputs_around`: the evidence, the snapshot of Bronze, the exchange's clock.
        offsets = dict(self._bronze.committed)
        yield self._seconds(self._options.read_s)
        coverage, extent = self._lake.coverage.between(self._exchanges, start_ms, end_ms)
        yield self._seconds(self._options.read_s)
        gaps = self._gaps.missing(offsets, start_ms, end_ms)
        completeness = CompletenessIndex(coverage, offsets, self._lake.grace_ms, gaps)
        yield self._options.slow_s if fate is RunFate.SLOW else self._seconds(self._options.read_s)
        rules = self._rules(extent, start_ms, end_ms)
        self._quarantine(rules)
        candidate = self._candidate(request, rules, completeness)
        yield self._options.slow_s if fate is RunFate.SLOW else self._seconds(self._options.run_s)
        if fate is not RunFate.FAILS:
            self._publish(candidate, gaps, offsets)
            yield 0.0
        is_success = fate in (RunFate.SUCCEEDS, RunFate.SLOW)
        self._requests[request.request] = RunState.SUCCEEDED if is_success else RunState.FAILED
        self.runs[fate.value] += 1

    def _candidate(
        self, request: SilverRequest, rules: RuleContext, completeness: CompletenessIndex
    ) -> dict[BarKey, tuple[dict[str, Any] | None, Collection[int]]]:
        """Return the bar of each planned minute, with the ids of its trades; None removes a bar without trades."""
        files = self._bronze.files_of(request.hours, request.from_sequence)
        minutes = {key for file in files for key in self._bronze.minutes_of[file.path]}
        keys = {(exchange, symbol, moment(start_ms)) for exchange, symbol, _, start_ms in minutes}
        first, last = request.hours[0], request.hours[-1] + HOUR
        for key, bar in self.bars.items():
            if first <= key[2] < last and (not request.from_sequence or is_outdated(bar, completeness)):
                keys.add(key)
        return {key: self._bar(key, rules, completeness) for key in sorted(keys)}

    def _bar(
        self, key: BarKey, rules: RuleContext, completeness: CompletenessIndex
    ) -> tuple[dict[str, Any] | None, Collection[int]]:
        """Return the minute's bar and the ids of its trades."""

        def evidence_of(exchange: str, symbol: str, stream: str, start_ms: int) -> Evidence | None:
            return completeness.evidence(exchange, symbol, stream, start_ms, start_ms + MINUTE_MS)

        exchange, symbol, start = key
        aggregates, ids = [], {}
        for stream in STREAM_PREFERENCE if (exchange, symbol) in rules.symbols else ():
            of_stream = exchange, symbol, stream, epoch_ms(start)
            if (minute := self._bronze.minutes.get(of_stream)) is not None:
                aggregate, ids[stream] = _aggregate(of_stream, minute, self._out_of_range(of_stream, minute, rules))
                aggregates += [] if aggregate is None else [aggregate]
        if not aggregates:
            return None, ()
        present = self.bars.get(key)
        rows = bar_rows(aggregates, evidence_of)
        (bar,) = keep_proven_rows(rows, [] if present is None else [present], completeness)
        return bar, ids[bar["stream"]]

    def _out_of_range(self, key: MinuteKey, minute: StoredMinute, rules: RuleContext) -> Collection[int]:
        """Return the ids that the rule of the valid time range keeps out of the bar."""
        quarantined = {identity[3] for identity in rules.quarantined if identity[:3] == key[:3]}
        earliest_us, latest_us = epoch_ms(rules.earliest) * 1_000, epoch_ms(rules.latest) * 1_000
        if not quarantined and earliest_us <= key[3] * 1_000 and (key[3] + MINUTE_MS) * 1_000 <= latest_us:
            return ()
        return {
            trade.trade_id
            for trade in minute.trades.values()
            if trade.trade_id in quarantined or not earliest_us <= trade.event_time <= latest_us
        }

    def _quarantine(self, rules: RuleContext) -> None:
        """Quarantine new trades that are out of range on arrival, like `advance_quarantine`."""
        for file in self._bronze.added_files(self._judged_to):
            if file.earliest < rules.earliest or file.latest > rules.latest:
                earliest_us, latest_us = epoch_ms(rules.earliest) * 1_000, epoch_ms(rules.latest) * 1_000
                for identity, time_us in self._bronze.times_of[file.path]:
                    if not earliest_us <= time_us <= latest_us:
                        self._quarantined[identity] = time_us
        self._judged_to = self._bronze.sequence

    def _publish(
        self,
        candidate: Mapping[BarKey, tuple[dict[str, Any] | None, Collection[int]]],
        gaps: Sequence[TradeGap],
        offsets: Mapping[int, int],
    ) -> None:
        """Replace the candidate's bars in one commit."""
        for key, (bar, ids) in candidate.items():
            self.bars.pop(key, None)
            self._incomplete.pop(key, None)
            if bar is not None:
                self.bars[key] = bar
                if not bar["is_complete"]:
                    self._incomplete[key] = bar
                self._lake.oracle.check_bar(bar, ids, gaps, offsets)

    def _rules(self, extent: CoverageExtent, start_ms: int | None, end_ms: int | None) -> RuleContext:
        now_ms, clock_ms = self._wall_ms, self._exchange_time_ms()
        return RuleContext(
            exchanges=self._exchanges,
            symbols=known_symbols(self._tracked(), extent.symbols),
            earliest=self._start,
            latest=latest_trade_time(extent, clock_ms, now_ms=now_ms, clock_factor=1.0, is_live=True),
            quarantined=tuple(
                identity
                for identity, time_us in self._quarantined.items()
                if (start_ms is None or time_us >= start_ms * 1_000) and (end_ms is None or time_us < end_ms * 1_000)
            ),
        )

    def _latest_ms(self, extent: CoverageExtent) -> int | None:
        times = (extent.streamed_to_ms, self._exchange_time_ms())
        return max((time_ms for time_ms in times if time_ms is not None), default=None)

    def _seconds(self, bounds: tuple[float, float]) -> float:
        return self._random.uniform(*bounds)


def _aggregate(
    key: MinuteKey, minute: StoredMinute, excluded: Collection[int]
) -> tuple[dict[str, Any] | None, Collection[int]]:
    """Return the aggregates of the minute's valid trades, like an engine's row, and their ids; None without a trade."""
    used = [each for each in minute.trades.values() if not each.is_broken and each.trade_id not in excluded]
    ids = {trade.trade_id for trade in used}
    if not used:
        return None, ids
    if minute.aggregate is None or excluded:
        aggregate = {
            "exchange": key[0],
            "symbol": key[1],
            "stream": key[2],
            "window_start": moment(key[3]),
            **_measures(used),
            "trades_dropped": sum(trade.is_broken for trade in minute.trades.values()),
        }
        if excluded:
            return aggregate, ids
        minute.aggregate = aggregate
    return minute.aggregate, ids


def _measures(trades: Sequence[StoredTrade]) -> dict[str, Any]:
    ordered = sorted(trades, key=lambda trade: (trade.event_time, trade.trade_id))
    prices = [trade.price for trade in ordered]
    bought = [trade for trade in ordered if trade.is_buy]
    zero = Decimal(0)
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": sum((trade.qty for trade in ordered), zero),
        "quote_volume": sum((trade.price * trade.qty for trade in ordered), zero),
        "trades": sum(trade.last_trade_id - trade.first_trade_id + 1 for trade in ordered),
        "taker_buy_volume": sum((trade.qty for trade in bought), zero),
        "taker_buy_quote_volume": sum((trade.price * trade.qty for trade in bought), zero),
        "first_trade_id": min(trade.first_trade_id for trade in ordered),
        "last_trade_id": max(trade.last_trade_id for trade in ordered),
    }


def _ms(time: datetime | None) -> int | None:
    return None if time is None else epoch_ms(time)
