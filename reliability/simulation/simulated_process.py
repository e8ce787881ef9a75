"""One producer process of the simulation: the real `Producer` with the simulated network, broker and lake.

A killed process is cut off from all of them before its tasks are cancelled, so that nothing it does at its end has an
effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from cryptolake_assets.binance.rate_limits import WeightBudget
from cryptolake_assets.kafka.topics import PeekedRecord
from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.markets import Market
from cryptolake_assets.producer.connection import ConnectionOptions
from cryptolake_assets.producer.connection_pool import ConnectionPoolOptions
from cryptolake_assets.producer.gap_tracker import GapTracker, LastTrade
from cryptolake_assets.producer.gap_writer import GapSink
from cryptolake_assets.producer.machine import Machine
from cryptolake_assets.producer.market_feed import MarketSource
from cryptolake_assets.producer.process import Producer, ProducerOptions, rest_clients, source_of
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.resume_point import StoredResumePoints
from cryptolake_assets.settings import Settings
from reliability.simulation.simulated_broker import SimulatedBroker, SimulatedPublisher
from reliability.simulation.simulated_lake import SimulatedBronze, SimulatedCoverage
from reliability.simulation.simulated_network import SimulatedNetwork

if TYPE_CHECKING:
    from reliability.simulation.world import World


class ProcessEndedError(Exception):
    """The process of the caller was killed."""


class SimulatedProcess:
    """A producer from its start to its end."""

    def __init__(self, world: World, random: Random) -> None:
        loop = world.loop
        self._world = world
        self._random = random
        self.publisher = SimulatedPublisher(world.broker, world.trade_topics, loop)
        self.network = SimulatedNetwork(world.markets_by_host, world.rest_faults, random, loop, world.log)
        self.stop = asyncio.Event()
        self.producer: Producer | None = None
        self.is_killed = False
        self.task = loop.create_task(self._run())

    async def _run(self) -> bool:
        world = self._world
        machine = Machine(lambda: world.wall_ns, self._random, self.network.open_socket)
        options = ProducerOptions(
            ConnectionOptions(machine=machine),
            ConnectionPoolOptions(world.settings.connection_life_s, random=self._random),
            status_interval_s=20.0,
            write_status=lambda _path, _status: None,
        )
        self.producer = Producer(
            world.settings,
            [self._market(settings) for settings in world.settings.each_market],
            publisher=self.publisher,
            sink=_OfProcess(self, world.lake.coverage),
            options=options,
        )
        return await self.producer.run(self.stop)

    def _market(self, settings: Settings) -> MarketSource:
        world = self._world
        per_minute = settings.venue.weights.per_minute
        budget = WeightBudget(settings.rest_weight_share, per_minute, now=lambda: world.wall_ns / 1e9)
        rest, history = rest_clients(settings, budget, uniform=self._random.uniform, transport=self.network.transport)
        bronze, _ = world.lake.family(settings.venue.family)
        gaps = _OfProcess(self, world.ledgers[settings.market])
        resume_points = SimulatedResumePoints(settings, world.broker, world.lake.coverage, bronze)
        return source_of(settings, rest, history, gaps, resume_points)

    def kill(self) -> None:
        """Cut the process off from the world, and cancel its tasks."""
        self.is_killed = self.publisher.is_dead = True
        self.network.vanish()
        self._world.loop.drop_jobs()

    @property
    def has_connected(self) -> bool:
        """Return whether the producer has connected to the broker and follows its markets."""
        return self.producer is not None and self.producer._connected.is_set()

    @property
    def tracked_ids(self) -> Mapping[Market, GapTracker]:
        """The gap trackers of the markets that have started."""
        feeds = {} if self.producer is None else self.producer.feeds
        return {market: feed._gaps for market, feed in feeds.items()}

    @property
    def undelivered(self) -> list[Message]:
        """Messages that the delivery has taken over and that are not acknowledged."""
        failed = [] if self.producer is None else self.producer._delivery._failed
        return [*self.publisher.in_flight, *failed]


class _OfProcess(GapSink):
    """A sink as one process sees it: a killed process writes nothing."""

    def __init__(self, process: SimulatedProcess, sink: Any) -> None:
        self._process = process
        self._sink = sink

    def write(self, rows: Sequence[Any]) -> None:
        self._of_living(self._sink.write)(rows)

    def open_gaps(self) -> list[TradeGap]:
        found: list[TradeGap] = self._of_living(self._sink.open_gaps)()
        return found

    def _of_living(self, call: Callable[..., Any]) -> Callable[..., Any]:
        if self._process.is_killed:
            raise ProcessEndedError
        return call


class SimulatedResumePoints(StoredResumePoints):
    """The real resume points of a market, from the simulated topic and lake."""

    def __init__(
        self, settings: Settings, broker: SimulatedBroker, coverage: SimulatedCoverage, bronze: SimulatedBronze
    ) -> None:
        super().__init__(settings)
        self._broker = broker
        self._stored_coverage = coverage
        self._bronze = bronze

    def _in_bronze(self, symbols: Collection[str], stream: str) -> dict[str, LastTrade]:
        return self._bronze.newest_trades(self._settings.venue.exchange, stream, sorted(symbols))

    def _coverage(self, symbols: Collection[str]) -> Sequence[CoverageRow]:
        rows, _ = self._stored_coverage.between([self._settings.venue.exchange])
        return [row for row in rows if row.symbol in symbols]

    async def _records(self, spans: Mapping[int, tuple[int, int]]) -> list[PeekedRecord]:
        await asyncio.sleep(self._broker.latency_s)
        self._broker.check_reachable()
        topic = self._broker.topics[self._settings.topic_trades]
        return [
            PeekedRecord(partition, offset, 0, message.key, message.value, tuple(message.headers or ()))
            for partition, (first, end) in sorted(spans.items())
            for offset, message in enumerate(topic[partition][first:end], first)
        ]
