"""The simulated world: exchange, network, broker, lake and the producer, on virtual time, from one seed.

A world is driven from outside: `run` lets time pass, actions (`actions`) make faults, and each step is followed by the
invariants (`violations`).
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from heapq import heappop, heappush
from pathlib import PurePosixPath
from random import Random
from typing import Any, Final, TextIO

import msgspec

from cryptolake_assets.errors import UnknownSymbolError
from cryptolake_assets.model.markets import VENUES, Market
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.resume_point import FETCHED_HEADERS
from cryptolake_assets.settings import Settings, load_settings
from reliability.simulation import quiet_log
from reliability.simulation.oracle import EmittedTrade, Oracle
from reliability.simulation.profile import Profile
from reliability.simulation.simulated_broker import SimulatedBroker
from reliability.simulation.simulated_exchange import START_MS, SimulatedMarket, SimulatedSymbol
from reliability.simulation.simulated_lake import GapLedgerOfMarket, SimulatedLake, moment
from reliability.simulation.simulated_network import RestFault
from reliability.simulation.simulated_process import SimulatedProcess
from reliability.simulation.simulated_silver import SimulatedSilver
from reliability.simulation.states import states_of_event
from reliability.simulation.virtual_loop import VirtualLoop

CHECK_S: Final = 60.0  # maximum time between two checks of the invariants
RESTART_S: Final = 5.0  # until the supervisor starts an ended process again
MAX_BATCH: Final = 20_000  # records of a partition in one batch of Bronze


class _Identity(msgspec.Struct):
    symbol: str
    trade_id: int
    exchange: str


_identity_of = msgspec.json.Decoder(_Identity).decode


class SymbolsFile(PurePosixPath):
    """The symbols file of the settings, in memory."""

    items: list[str]

    def read_text(self, encoding: str = "utf-8") -> str:  # noqa: ARG002
        return "\n".join(self.items)


class EventLog:
    """The digest of all events, and optionally their text."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: TextIO | None) -> None:
        self._loop = loop
        self._file = file
        self._digest = blake2b(digest_size=16)

    def __call__(self, event: str, *values: object) -> None:
        line = f"{self._loop.time():.6f} {event} {' '.join(map(str, values))}\n"
        self._digest.update(line.encode())
        if self._file is not None:
            self._file.write(line)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


@dataclass
class BronzeState:
    """Faults of the stream into Bronze."""

    away_until: float = 0.0
    kill_after_append: int = 0  # batches after which it is killed before its checkpoint


@dataclass
class WorldCounts:
    """What happened so far."""

    frames: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    states: set[str] = field(default_factory=set)


class World:
    """One simulation."""

    def __init__(self, seed: int, log_file: TextIO | None = None) -> None:
        self.seed = seed
        self.profile = Profile.drawn(Random(f"{seed}:profile"))
        self.random = Random(f"{seed}:world")
        self.loop = VirtualLoop(self._job_delays_s)
        self.log = EventLog(self.loop, log_file)
        self.counts = WorldCounts()
        self._log_again = quiet_log.listen(self._product_event)
        self.symbols_file = SymbolsFile("symbols")
        self.settings = self._settings()
        self.wall_skew_ns = 0
        self.jobs_slow_until = 0.0
        self.violations: list[str] = []
        self.oracle = Oracle(self.settings.watermark_grace_ms)
        self.lake = SimulatedLake(self.settings.watermark_grace_ms, self.oracle)
        self._family = self.settings.venue.family
        self.bronze, self.ledger = self.lake.family(self._family)
        self.bronze_state = BronzeState()
        self.markets = {market: self._market(market) for market in self.profile.symbols}
        self.ledgers = {m: GapLedgerOfMarket(self.ledger, VENUES[m].exchange) for m in self.markets}
        self.markets_by_host = {
            host: market
            for market in self.markets.values()
            for host in (_host(market.venue.ws_base_url), _host(market.venue.rest_base_url))
        }
        self.rest_faults = {host: RestFault() for host in self.markets_by_host}
        self.trade_topics = [self.settings.topic_trades]
        topics = {self.settings.topic_trades: self.profile.partitions, self.settings.topic_rejected: 1}
        self.broker = SimulatedBroker(topics, Random(f"{seed}:broker"), self._stored)
        self.silver = SimulatedSilver(
            self.lake,
            self._family,
            Random(f"{seed}:silver"),
            start=moment(START_MS) - timedelta(days=1),
            exchange_time_ms=self._exchange_time_ms,
            tracked=self._tracked,
        )
        self.unstored: dict[tuple[str, str], dict[int, EmittedTrade]] = {}
        self.first_stored: dict[tuple[str, str], int] = {}
        self.process: SimulatedProcess | None = None
        self.processes = 0  # started so far
        self.started_at = 0.0  # of the newest
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._calls = 0
        for market in self.markets.values():
            market.start()
        self._every(self.profile.bronze_trigger_s, self._append_to_bronze)
        self._every(self.profile.follower_tick_s, self._tick)

    def _settings(self) -> Settings:
        profile = self.profile
        self.all_items = [f"{market}:{symbol}" for market, symbols in profile.symbols.items() for symbol in symbols]
        self.symbols_file.items = list(self.all_items)
        settings = load_settings(
            source="binance",
            markets=tuple(profile.symbols),
            symbols=tuple(self.symbols_file.items),
            extra_streams=("none",),
            trade_stream="aggTrade",
            coverage_interval_s=profile.coverage_interval_s,
            connection_life_s=profile.connection_life_s,
            gap_repair_max_ids=profile.gap_repair_max_ids,
            exchange_ws_url="",
            exchange_rest_url="",
        )
        return settings.model_copy(update={"symbols_file": self.symbols_file})

    def _market(self, market: Market) -> SimulatedMarket:
        profile = self.profile
        symbols = [SimulatedSymbol(name, share) for name, share in profile.symbols[market].items()]
        made = SimulatedMarket(VENUES[market], symbols, self.loop, Random(f"{self.seed}:{market}"), self.oracle)
        made.rate = profile.rate / len(profile.symbols)
        made.max_life_s = profile.connection_life_s * 1.2
        made.emitted = self._emitted
        return made

    # Time.

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def wall_ns(self) -> int:
        """This machine's clock."""
        return START_MS * 1_000_000 + int(self.now * 1e9) + self.wall_skew_ns

    def run(self, seconds: float) -> None:
        """Let time pass; check the invariants at least every `CHECK_S`, and stop at the first violation."""
        end = self.now + seconds
        while not self.violations:
            due = self._later[0][0] if self._later else end
            self.loop.run_until(min(end, due, self.now + CHECK_S))
            while self._later and self._later[0][0] <= self.now:
                heappop(self._later)[2]()
            self._check_process()
            self._check_accounts()
            self.violations += self.oracle.violations
            self.oracle.violations.clear()
            if self.now >= end:
                break

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call in some seconds, outside the loop."""
        self._calls += 1
        heappush(self._later, (self.now + seconds, self._calls, call))

    def _check_process(self) -> None:
        process = self.process
        if process is None or not process.task.done():
            return
        self.process = None
        error = process.task.exception()
        if isinstance(error, UnknownSymbolError) and not process.has_connected:
            # A tracked symbol is not listed at the start: the supervisor starts the process again.
            self.later(RESTART_S, self.start)
        elif error is not None:
            self.violations.append(f"producer: ended with {type(error).__name__}: {error}")
        elif not process.stop.is_set():
            self.violations.append("producer: ended by itself")
        self.log("process_ended", error or process.task.result())

    def _every(self, seconds: float, call: Any) -> None:
        def again() -> None:
            call()
            self.loop.call_later(seconds, again)

        self.loop.call_later(seconds, again)

    def _job_delays_s(self) -> tuple[float, float]:
        if self.now < self.jobs_slow_until:
            return self.random.uniform(0.0, 20.0), self.random.uniform(0.0, 10.0)
        return self.random.uniform(0.0, 0.6), self.random.uniform(0.0, 0.3)

    # The process.

    def start(self) -> None:
        """Start the producer, if it is down."""
        if self.process is None:
            self.processes += 1
            self.started_at = self.now
            self.log("process_started", self.processes)
            self.process = SimulatedProcess(self, Random(f"{self.seed}:process:{self.processes}"))

    def kill(self) -> None:
        """Kill the producer: what it has not handed to the broker or the lake is lost."""
        if self.process is None:
            return
        process, self.process = self.process, None
        self.log("process_killed")
        process.kill()
        for _ in range(200):
            tasks = sorted(asyncio.all_tasks(self.loop), key=_number_of)
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            self.loop.run_until(self.now)
        raise AssertionError(f"simulation: tasks of a killed process remain: {tasks}")

    def heal(self) -> None:
        """End all faults, and start the producer."""
        self.log("healed")
        for market in self.markets.values():
            market.heal()
        for fault in self.rest_faults.values():
            fault.until = 0.0
        self.broker.heal()
        self.jobs_slow_until = self.bronze_state.away_until = 0.0
        self.bronze_state.kill_after_append = 0
        for faults in (self.lake.coverage.faults, self.ledger.faults):
            faults.before = faults.after = 0
        for ledger in self.ledgers.values():
            ledger.reads_fail = 0
        self.silver.next_fates.clear()
        self.symbols_file.items = list(self.all_items)
        self._later.clear()
        if self.process is not None and self.process.stop.is_set():
            self.kill()
        self.start()

    def close(self) -> None:
        """End the simulation."""
        self.kill()
        self.loop.close()
        self._log_again()

    def untrack(self, item: str) -> None:
        """Remove an item from the symbols file."""
        if item in self.symbols_file.items:
            self.symbols_file.items.remove(item)

    def track(self, item: str) -> None:
        """Add an item to the symbols file."""
        if item not in self.symbols_file.items:
            self.symbols_file.items.append(item)

    # What happens.

    def _emitted(self, exchange: str, symbol: str, trade: EmittedTrade) -> None:
        self.oracle.emitted(exchange, symbol, trade)
        self.unstored.setdefault((exchange, symbol), {})[trade.trade_id] = trade

    def _stored(self, topic: str, partition: int, offset: int, message: Message) -> None:
        self.log("stored", topic, partition, offset, zlib.crc32(message.value))
        if topic not in self.trade_topics:
            return
        event = _identity_of(message.value)
        key = event.exchange, event.symbol
        self.oracle.stored(*key, event.trade_id, partition, offset, is_fetched=message.headers == FETCHED_HEADERS)
        if self.unstored.get(key, {}).pop(event.trade_id, None) is not None:
            self.first_stored.setdefault(key, event.trade_id)

    def _product_event(self, event: str) -> None:
        self.log("product", event)
        self.counts.states.update(states_of_event(self, event))
        if event == "resume_points_read":
            self._forget_untracked()

    def _forget_untracked(self) -> None:
        """Forget the first trades of symbols that the process does not track: it does not know their earlier ones."""
        producer = None if self.process is None else self.process.producer
        for market, feed in {} if producer is None else producer.feeds.items():
            for symbol in self.profile.symbols[market]:
                if symbol not in feed.pool.symbols and feed._gaps.last(symbol) is None:
                    self.first_stored.pop((VENUES[market].exchange, symbol), None)

    def _append_to_bronze(self) -> None:
        """Run a micro-batch of the stream into Bronze."""
        state = self.bronze_state
        if self.now < state.away_until or self.broker.is_away:
            return
        records = [
            (partition, offset, message.value)
            for partition, messages in enumerate(self.broker.topics[self.trade_topics[0]])
            for first in (self.bronze.committed.get(partition, 0),)
            for offset, message in enumerate(messages[first : first + MAX_BATCH], first)
        ]
        is_killed = bool(records) and state.kill_after_append > 0
        if is_killed:
            state.kill_after_append -= 1
            state.away_until = self.now + self.random.uniform(5.0, 60.0)
        if records:
            self.log("bronze", self.bronze.append(records, is_committed=not is_killed), is_killed)

    def _tick(self) -> None:
        self.silver.tick(self.now + START_MS / 1000, wall_s=self.wall_ns / 1e9)

    def _exchange_time_ms(self) -> int | None:
        """Return the clock of the family's first market, as Silver's runs read it; None if REST does not respond."""
        market = next(iter(self.markets.values()))
        fault = self.rest_faults[_host(market.venue.rest_base_url)]
        responds = self.now >= fault.until or fault.kind == "slow"
        return market.clock_ms if responds else None

    def _tracked(self) -> Iterable[tuple[str, str]]:
        return [
            (VENUES[market].exchange, symbol) for market, symbols in self.profile.symbols.items() for symbol in symbols
        ]

    # Invariants.

    def _check_accounts(self) -> None:
        """Check that each emitted trade below the newest known one is stored, in flight, or in an open gap.

        Trades before the first one on the topic are not of the platform.
        """
        process = self.process
        trackers = {} if process is None else process.tracked_ids
        in_flight: set[tuple[str, str, int]] | None = None
        for market, tracker in trackers.items():
            exchange = VENUES[market].exchange
            for symbol, sequence in tracker._sequences.items():
                key = exchange, symbol
                last, first = sequence.last_id, self.first_stored.get(key)
                if last is None or first is None:
                    continue
                for trade_id in list(self.unstored.get(key, ())):
                    if not first < trade_id <= last or any(
                        start <= trade_id <= end for item in sequence.open for start, end in item.ranges
                    ):
                        continue
                    if in_flight is None:
                        assert process is not None
                        in_flight = _identities(process.undelivered)
                    if (*key, trade_id) not in in_flight and not self._is_explained(key, trade_id):
                        self.violations.append(
                            f"accounts: {symbol} {trade_id} is below the newest id {last}, and neither on the topic, "
                            "nor in flight, nor in a gap"
                        )

    def _is_explained(self, key: tuple[str, str], trade_id: int) -> bool:
        """Return whether the ledger has the trade in an open gap: a producer that cannot read it yet knows no gap."""
        return any(gap.closed_at is None for gap in self.oracle.emitted_by[key].gaps_with(trade_id))


def _identities(messages: Iterable[Message]) -> set[tuple[str, str, int]]:
    found = set()
    for message in messages:
        try:
            event = _identity_of(message.value)
        except msgspec.MsgspecError:
            continue  # a dead letter
        found.add((event.exchange, event.symbol, event.trade_id))
    return found


def _host(url: str) -> str:
    return url.partition("//")[2].partition(".")[0]


def _number_of(task: asyncio.Task[Any]) -> int:
    return int(task.get_name().rpartition("-")[2])
