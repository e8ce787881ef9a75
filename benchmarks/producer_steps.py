"""Steps of part `ingest` for the producer, each in a separate process: from the exchange's socket to Kafka."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from benchmarks import lakes
from benchmarks.bare.clock import Clock
from benchmarks.feed import SYMBOLS, serving, symbol_in
from benchmarks.results import ROOT
from benchmarks.steps import main
from cryptolake_assets.model.markets import Market
from cryptolake_assets.producer.publisher import DeliveryListener, Message, Publisher
from cryptolake_assets.producer.status_file import ProducerStatus

if TYPE_CHECKING:
    from cryptolake_assets.producer.market_feed import MarketSource
    from cryptolake_assets.settings import Settings

POLL_S = 0.02
LIMIT_S = 180
BUILD_TOOLS = ("cython", "setuptools", "wheel")


def kafka_up(home: str) -> str:
    """Start the project's broker for a home; return its address."""
    from cryptolake_assets.lake.bootstrap import bootstrap
    from cryptolake_assets.platform import lifecycle
    from cryptolake_assets.platform.parts import KAFKA

    lakes.give_ports(Path(home))
    settings = lakes.lake_settings(Path(home))
    bootstrap(settings)
    lifecycle.up(settings, [KAFKA])
    return settings.bootstrap_servers


def feed_port(home: str) -> int:
    """Return the port of the frame server."""
    return lakes.lake_settings(Path(home)).exchange_port


def make_topic(home: str, topic: str) -> bool:
    """Create a topic with the project's settings."""
    from cryptolake_assets.kafka import topics as kafka

    kafka.ensure_topics(lakes.lake_settings(Path(home), kafka_topic_futures=topic))
    return True


def down(home: str) -> bool:
    """Stop all processes of a home."""
    from cryptolake_assets.platform import lifecycle

    lifecycle.down(lakes.lake_settings(Path(home)))
    return True


class _Stopwatch:
    """Record the time of each acknowledgement and forward it to the listener."""

    def __init__(self, listener: DeliveryListener) -> None:
        self._listener = listener
        self.acknowledgements: list[tuple[int, Sequence[Message]]] = []

    def acknowledged(self, messages: Sequence[Message], partition: int, first_offset: int) -> None:
        self.acknowledgements.append((time.time_ns() // 1000, messages))
        self._listener.acknowledged(messages, partition, first_offset)

    def failed(self, messages: Sequence[Message], error: BaseException) -> None:
        self._listener.failed(messages, error)

    def latencies_ms(self) -> list[float]:
        """Return the times from the sending of a frame to its acknowledgement, in order of acknowledgement."""
        return [
            (at_us - json.loads(message.value)["event_time"]) / 1000
            for at_us, messages in self.acknowledgements
            for message in messages
        ]


def _timed(publisher: Publisher) -> list[_Stopwatch]:
    """Insert a stopwatch between the publisher and its listener; the list contains it once the publisher starts."""
    found: list[_Stopwatch] = []
    start = publisher.start

    async def start_timed(listener: DeliveryListener) -> None:
        found.append(_Stopwatch(listener))
        await start(found[-1])

    publisher.start = start_timed  # type: ignore[method-assign]
    return found


def produce(home: str, io: str, frames: int, per_s: int, markets: Sequence[str] = (Market.USD_M,)) -> dict[str, Any]:
    """Run the complete producer in this process; measure from the first sent to the last acknowledged frame.

    The frames are spread evenly over the markets.
    """
    return asyncio.run(_produce(Path(home), io, frames, per_s, tuple(map(Market, markets))))


async def _produce(home: Path, io: str, frames: int, per_s: int, markets: tuple[Market, ...]) -> dict[str, Any]:
    from httpx import AsyncClient

    from cryptolake_assets.lake.coverage import IcebergCoverageSink
    from cryptolake_assets.producer.client_libraries import make_publisher
    from cryptolake_assets.producer.connection import ConnectionOptions
    from cryptolake_assets.producer.process import Producer, ProducerOptions, raise_gc_thresholds
    from cryptolake_assets.settings.producer import ProducerIo

    raise_gc_thresholds()  # like the producer's own process
    base, warm_up = lakes.lake_settings(home), frames // 10
    stop = asyncio.Event()
    with serving(base.exchange_port, 0 if per_s else warm_up + frames, markets) as address:
        urls = {"exchange_ws_url": f"ws://{address}", "exchange_rest_url": f"http://{address}"}
        settings = base.model_copy(update={"markets": markets, **urls})
        publisher = make_publisher(settings, ProducerIo(io))
        stopwatch = _timed(publisher) if per_s else []
        async with AsyncExitStack() as clients, AsyncClient(timeout=30) as client:
            producer = Producer(
                settings,
                [await _market(settings.of_market(market), clients) for market in markets],
                publisher=publisher,
                sink=IcebergCoverageSink(settings),
                options=ProducerOptions(ConnectionOptions(io=ProducerIo(io))),
            )
            run = asyncio.create_task(producer.run(stop))

            async def until(done: Callable[[ProducerStatus], bool]) -> None:
                async with asyncio.timeout(LIMIT_S):
                    while not done(producer.status()):
                        assert not run.done(), "the producer exited"
                        await asyncio.sleep(POLL_S)

            async def begin(number: int, rate: int) -> None:
                await client.get(f"http://{address}/feed?frames={number}&per_s={rate}")

            await until(
                lambda status: all(
                    any(item.state == "streaming" for item in market.connections) for market in status.markets.values()
                )
            )
            # Exclude one-time work of the process, mainly the imports for the first coverage.
            await begin(warm_up, per_s)
            await until(
                lambda status: (
                    status.events_acked == warm_up and all(market.coverage_to_ms for market in status.markets.values())
                )
            )
            clock = Clock()
            if stopwatch:
                stopwatch[0].acknowledgements.clear()
            await begin(frames, per_s)
            await until(lambda status: status.events_acked == warm_up + frames)
            reading = clock.reading()
            status = producer.status()
            stop.set()
            assert await run, "the producer did not deliver all events"
    missing = sum(market.ids_missing for market in status.markets.values())
    assert (status.rejected, status.messages_resent, missing) == (0, 0, 0), status
    result = {**reading, "frames": frames, "cpu_s_per_million": round(reading["cpu_s"] / frames * 1e6, 3)}
    if stopwatch:
        percentiles = quantiles(stopwatch[0].latencies_ms(), n=100)
        result |= {"p50_ms": round(percentiles[49], 1), "p99_ms": round(percentiles[98], 1)}
    return result


async def _market(settings: Settings, clients: AsyncExitStack) -> MarketSource:
    """Return the source of one of the frame server's markets, without resume points."""
    from cryptolake_assets.captures.tracked_symbols import Subscriptions
    from cryptolake_assets.producer.process import market_source

    source = await market_source(settings, clients)
    symbols = tuple(symbol_in(settings.market, symbol) for symbol in SYMBOLS)

    async def subscribe() -> Subscriptions:
        return Subscriptions(symbols, "aggTrade")

    return replace(source, subscribe=subscribe, resume_points=None, refresh=None)


def make_cryptofeed(directory: str) -> str:
    """Create an environment with cryptofeed from its lock file, and return its Python. Build it: it has no wheels."""
    lock, python = ROOT / "requirements/cryptofeed.lock", Path(directory) / "bin" / "python"
    venv.EnvBuilder(clear=True, with_pip=True).create(directory)
    blocks = re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE)
    tools = Path(directory) / "build-tools.txt"
    tools.write_text(
        "".join(block for block in blocks if block.lower().startswith(("cython==", "setuptools==", "wheel==")))
    )
    install = (str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
    for arguments in ((str(tools),), (str(lock), "--no-build-isolation")):
        subprocess.run([*install, "--require-hashes", "-r", *arguments], check=True, stdout=sys.stderr)
    return str(python)


def cryptofeed(home: str, python: str, topic: str, frames: int) -> dict[str, Any]:
    """Measure cryptofeed with the same frames and broker."""
    settings = lakes.lake_settings(Path(home))
    with serving(settings.exchange_port, 2 * frames) as address:
        completed = subprocess.run(
            [python, "-m", "benchmarks.bare.cryptofeed_kafka", address, settings.bootstrap_servers, topic, str(frames)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=LIMIT_S,
            check=True,
        )
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])["result"]
    return result


STEPS: dict[str, Callable[..., Any]] = {
    step.__name__: step for step in (kafka_up, feed_port, make_topic, down, produce, make_cryptofeed, cryptofeed)
}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
