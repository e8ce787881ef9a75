"""The lake of the simulation has the semantics of the product's, and its oracle sees what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, OpenBecause, TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.bronze import append, trade
from reliability.simulation.oracle import EmittedTrade, Oracle
from reliability.simulation.simulated_lake import SimulatedLake, WriteFailedError
from reliability.simulation.simulated_silver import RunFate, SimulatedSilver

EXCHANGE, SYMBOL, STREAM = "binance_futures", "BTCUSDT", "aggTrade"
START = datetime(2024, 7, 19, 10, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
GRACE_MS = 2_000


class World:
    """A lake that follows one symbol with a trade per ten seconds; fed by hand."""

    def __init__(self) -> None:
        self.oracle = Oracle(GRACE_MS)
        self.lake = SimulatedLake(GRACE_MS, self.oracle)
        self.bronze, self.gaps = self.lake.family(Family.FUTURES)
        self.clock_ms = START_MS
        self.offset = 0
        self.next_id = 100
        self.silver = SimulatedSilver(
            self.lake,
            Family.FUTURES,
            Random(1),  # noqa: S311  seeded
            start=START,
            exchange_time_ms=lambda: self.clock_ms,
            tracked=lambda: [(EXCHANGE, SYMBOL)],
        )

    def emit(self, count: int, qty: str = "0.5") -> list[TradeEvent]:
        """Let the exchange make trades, ten seconds apart."""
        found = []
        for _ in range(count):
            emitted = EmittedTrade(self.next_id, self.clock_ms, f"10{self.next_id % 7}.5", qty, "buy", 1, 2)
            self.oracle.emitted(EXCHANGE, SYMBOL, emitted)
            found.append(event_of(emitted))
            self.next_id += 1
            self.clock_ms += 10_000
        return found

    def publish(self, events: Sequence[TradeEvent], *, to_bronze: bool = True, is_committed: bool = True) -> None:
        """Store the events on the topic and append them to Bronze."""
        records = [(0, self.offset + number, event.encode()) for number, event in enumerate(events)]
        for event, (_, offset, _) in zip(events, records, strict=True):
            self.oracle.stored(EXCHANGE, SYMBOL, event.trade_id, 0, offset)
        self.offset += len(records)
        if to_bronze:
            self.bronze.append(records, is_committed=is_committed)

    def cover(self, from_ms: int | None = None, to_ms: int | None = None) -> None:
        """Claim the time up to the exchange's clock."""
        start_ms, end_ms = START_MS if from_ms is None else from_ms, self.clock_ms if to_ms is None else to_ms
        row = CoverageRow(EXCHANGE, SYMBOL, STREAM, start_ms, end_ms, 0, self.offset, "ws://x", Evidence.BARRIER)
        self.lake.coverage.write([row])

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds // 5):
            self.clock_ms += 5_000
            self.silver.tick(self.clock_ms / 1_000)


def event_of(emitted: EmittedTrade) -> TradeEvent:
    return TradeEvent(
        symbol=SYMBOL,
        event_time=emitted.time_ms * 1_000,
        price=emitted.price,
        qty=emitted.qty,
        side="buy",
        trade_id=emitted.trade_id,
        exchange=EXCHANGE,
        ingest_ts=0,
        first_trade_id=emitted.first_id,
        last_trade_id=emitted.last_id,
        trade_type="MARKET",
        stream="aggTrade",
    )


def gap(first: int, last: int, at_ms: int) -> TradeGap:
    return TradeGap(
        EXCHANGE, SYMBOL, STREAM, first, last, last - first + 1, at_ms * 1_000, (at_ms + 10_000) * 1_000, START
    )


@pytest.fixture
def world() -> World:
    return World()


def complete_starts(world: World) -> list[int]:
    return sorted((key[2] - START) // timedelta(minutes=1) for key in world.silver.complete_minutes())


def test_covered_minutes_become_complete_and_equal_the_oracle(world: World) -> None:
    world.publish(world.emit(20))
    world.cover()
    world.pass_seconds(120)
    assert complete_starts(world) == [0, 1, 2]
    assert len(world.silver.bars) == 4
    assert world.silver.is_idle
    world.oracle.check_end(lambda *_: True)
    world.oracle.check_bronze(EXCHANGE, SYMBOL, range(100, 120))
    for bar in world.silver.bars.values():
        world.oracle.check_incomplete(bar)
    assert world.oracle.violations == []
    assert world.oracle.bars_checked == 3


def test_later_coverage_completes_published_minutes(world: World) -> None:
    world.publish(world.emit(20))
    world.pass_seconds(120)
    assert complete_starts(world) == []
    world.cover()
    world.pass_seconds(120)
    assert complete_starts(world)[:3] == [0, 1, 2]


def test_bronze_keeps_a_record_once_when_a_batch_is_repeated(world: World) -> None:
    events = world.emit(6)
    world.publish(events, is_committed=False)
    assert world.bronze.committed == {}
    world.bronze.append([(0, number, event.encode()) for number, event in enumerate(events)])
    assert world.bronze.committed == {0: 6}
    assert world.bronze.sequence == 1
    assert world.bronze.newest_trades(EXCHANGE, STREAM, [SYMBOL, "X"])[SYMBOL].trade_id == 105


def test_late_trade_updates_its_bar(world: World) -> None:
    first, second, *others = world.emit(20)
    world.publish([first, *others])
    world.gaps.write([gap(second.trade_id, second.trade_id, START_MS)])
    world.cover()
    world.pass_seconds(120)
    assert complete_starts(world) == [1, 2]
    world.publish([second])
    closed = {"closed_at": START, "closed_by": ClosedBy.REST, "outcome": GapOutcome.REPAIRED, "ids_missing": 0}
    found = gap(second.trade_id, second.trade_id, START_MS)
    world.gaps.write([replace(found, **closed, kafka_partition=0, kafka_offset=world.offset)])  # type: ignore[arg-type]
    world.pass_seconds(300)
    assert complete_starts(world) == [0, 1, 2]
    world.oracle.check_end(lambda *_: True)
    assert world.oracle.violations == []


def test_gap_found_in_a_complete_minute_withdraws_its_completeness(world: World) -> None:
    """The exchange had silently lost the subscription: barriers went on."""
    events = world.emit(20)
    for event in events[8:12]:
        world.oracle.withheld(EXCHANGE, SYMBOL, event.trade_id)
    world.publish(events[:8])
    world.cover(to_ms=START_MS + 122_000)
    world.pass_seconds(180)
    assert complete_starts(world) == [0, 1]
    missing = gap(events[8].trade_id, events[11].trade_id, START_MS + 70_000)
    missing = replace(missing, before_us=(START_MS + 120_000) * 1_000, open_because=OpenBecause.NOT_AT_EXCHANGE)
    world.publish(events[12:])
    world.gaps.write([missing])
    world.cover()
    world.pass_seconds(300)
    assert 1 not in complete_starts(world)
    assert complete_starts(world) == [0, 3]
    world.oracle.check_end(lambda *_: False)
    assert world.oracle.violations == []


@pytest.mark.parametrize("fate", list(RunFate))
def test_failed_killed_and_slow_runs_are_repeated(world: World, fate: RunFate) -> None:
    world.silver.next_fates.append(fate)
    world.publish(world.emit(20))
    world.cover()
    world.pass_seconds(2_400)
    assert complete_starts(world) == [0, 1, 2]
    assert world.silver.runs[fate] >= 1


@pytest.mark.parametrize("with_copy", [True, False])
def test_lost_cursor_and_unsaved_tick_change_nothing(world: World, with_copy: bool) -> None:
    world.publish(world.emit(20))
    world.cover()
    world.silver.tick(world.clock_ms / 1_000, is_saved=False)
    assert world.silver.cursor is None
    world.silver.tick(world.clock_ms / 1_000)
    world.silver.lose_cursor(with_copy=with_copy)
    world.silver.kill_runs()
    world.silver.restart()
    world.pass_seconds(600)
    assert complete_starts(world) == [0, 1, 2]


def test_quarantined_trade_keeps_its_minute_incomplete(world: World) -> None:
    world.publish([*world.emit(2), *world.emit(1, qty="0"), *world.emit(17)])
    world.cover()
    world.pass_seconds(120)
    assert complete_starts(world) == [1, 2]
    assert world.silver.bars[EXCHANGE, SYMBOL, START]["trades_dropped"] == 1


def test_trade_out_of_range_on_arrival_stays_quarantined(world: World) -> None:
    events = world.emit(20)
    world.clock_ms = START_MS
    world.publish(events)
    world.pass_seconds(600)
    assert sum(bar["trades"] for bar in world.silver.bars.values()) < 40


def test_write_faults_fail_before_or_after_the_commit(world: World) -> None:
    world.publish(world.emit(12))
    world.lake.coverage.faults.before = world.lake.coverage.faults.after = 1
    with pytest.raises(WriteFailedError):
        world.cover()
    assert world.lake.coverage.rows == {}
    with pytest.raises(WriteFailedError):
        world.cover()
    assert len(world.lake.coverage.rows) == 1
    world.cover()
    assert world.lake.coverage.version == 1


def test_oracle_sees_a_claim_of_a_trade_that_is_missing_or_above_the_offset(world: World) -> None:
    events = world.emit(12)
    world.publish(events[:5] + events[6:])
    world.cover()
    assert len(world.oracle.violations) == 1
    assert "trade_id=105" in world.oracle.violations[0]
    world.gaps.write([gap(105, 105, START_MS)])
    world.cover(to_ms=world.clock_ms + 1)
    assert len(world.oracle.violations) == 1
    world.publish(world.emit(1), to_bronze=False)
    world.offset = 3
    world.cover()
    assert len(world.oracle.violations) > 1


def test_oracle_excuses_a_withheld_trade_until_a_later_one_shows_it(world: World) -> None:
    events = world.emit(12)
    world.oracle.withheld(EXCHANGE, SYMBOL, 111)
    world.publish(events[:-1])
    world.cover(to_ms=world.clock_ms + GRACE_MS)
    assert world.oracle.violations == []
    world.publish(world.emit(1))
    world.cover()
    assert len(world.oracle.violations) == 1


def test_oracle_sees_a_complete_bar_without_a_trade(world: World) -> None:
    events = world.emit(20)
    world.publish([*events[:2], *events[3:]])
    world.cover()
    world.pass_seconds(120)
    assert any(text.startswith("complete bar: BTCUSDT") for text in world.oracle.violations)


def test_oracle_sees_a_gap_that_is_closed_without_its_trade_and_one_that_stays_open(world: World) -> None:
    world.publish(world.emit(3))
    missing = gap(102, 103, START_MS)
    world.emit(2)
    world.gaps.write([missing])
    world.oracle.check_end(lambda *_: True)
    assert [text.split(":")[0] for text in world.oracle.violations] == ["gap not repaired"]
    world.gaps.write([replace(missing, open_because=OpenBecause.BEYOND_LIMIT)])
    world.oracle.violations.clear()
    world.oracle.check_end(lambda *_: True)
    assert world.oracle.violations == []
    world.gaps.write([replace(missing, closed_at=START, outcome=GapOutcome.REPAIRED, kafka_offset=3)])
    assert len(world.oracle.violations) == 1
    assert world.oracle.unaccounted(EXCHANGE, SYMBOL, 100, 104) == [103, 104]
    assert world.oracle.completable(EXCHANGE, SYMBOL, START_MS, START_MS + 60_000) == []


def test_bars_equal_those_of_the_product_engine(world: World, lake: Settings) -> None:
    random = Random(5)  # noqa: S311  seeded
    stored, events, time_ms = [], [], START_MS
    for number in range(400):
        time_ms += random.randrange(10_000)
        price, qty = f"{random.randrange(10**9)}.{random.randrange(10**8):08}", f"{random.randrange(99)}.{number:03}"
        emitted = EmittedTrade(number, time_ms, price, qty, "buy", number, number)
        world.oracle.emitted(EXCHANGE, SYMBOL, emitted)
        events.append(event_of(emitted))
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
        stored.append(trade(moment, number, price=price, qty=qty, side="buy", stream=STREAM, trade_type="MARKET"))
    append(lake, stored + stored[:50])
    world.clock_ms = time_ms
    world.publish(events + events[:50])
    world.pass_seconds(600)
    snapshot = load_table(lake, FUTURES.trades).metadata.current_snapshot_id or 0
    rules = world.silver.run_inputs().rules
    ((_, made),) = DuckDBEngine(lake).minute_aggregates(FUTURES, snapshot, [START], None, rules)
    expected = {(row["exchange"], row["symbol"], row["window_start"]): row for row in made.rows.to_pylist()}
    assert len(expected) > 30
    for key, row in expected.items():
        assert {name: world.silver.bars[key][name] for name in row} == row
        world.oracle.check_incomplete(world.silver.bars[key])
    assert world.oracle.violations == []


def test_oracle_sees_a_repairable_gap_that_counts_as_beyond_the_limit(world: World) -> None:
    events = world.emit(4)
    world.publish([events[0], events[3]])
    missing = replace(gap(101, 102, START_MS), open_because=OpenBecause.BEYOND_LIMIT)
    world.gaps.write([missing])
    assert len(world.oracle.violations) == 1
    world.oracle.violations.clear()
    world.gaps.write([replace(missing, last_missing_id=101, ids_missing=1)])
    assert world.oracle.violations == []
