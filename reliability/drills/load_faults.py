"""Loads: API clients that are many, slow or deaf; and a market that is twice as fast as the machine."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import psutil

from cryptolake_assets.platform.parts import API, BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from reliability.drills.actions import Action, Parameters, Probe
from reliability.drills.client_load import ClientLoad
from reliability.drills.drilled_platform import DrilledPlatform
from reliability.drills.feed import Burst, Feed, write_feed
from reliability.page import percentile

MEBIBYTE: Final = 1 << 20
IDLE_REQUESTS: Final = 10
SERVED_WITHIN_S: Final = 1.0  # p95 of a client that reads, or
IDLE_FACTOR: Final = 10.0  # this many times that without the load, on a busy machine
# Maximum growth of a process under load. The API's responses for slow clients and its caches are bounded; so are the
# queues of the exchange, of the producer's frames and of its messages in flight.
API_GROWTH_BYTES: Final = 700 * MEBIBYTE
STREAM_GROWTH_BYTES: Final = 1_200 * MEBIBYTE
OPEN_CONNECTIONS: Final = 20  # of the API without the load
STREAM_PARTS: Final = (EXCHANGE, PRODUCER, KAFKA, SPARK, BRONZE)

RAMP: Final[tuple[int, ...]] = tuple(250 << step for step in range(9))  # trades a second
STEP_S: Final = 15
WARM_UP_S: Final = 60
LAG_GROWTH_MS: Final = 4_000  # over a step: two triggers of Bronze
OVERLOAD: Final = 2  # times the rate that the machine can take
LONGEST_BURST_S: Final = 300


class OverloadedError(Exception):
    """The platform did not bear a load as promised."""


class PeakMemory:
    """Samples the resident memory of processes while it runs."""

    def __init__(self, processes: dict[str, list[psutil.Process]]) -> None:
        self._processes = processes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self.before = self._sizes()
        self.peak = dict(self.before)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def check(self, limit_bytes: int) -> None:
        """Raise `OverloadedError` if a process has grown by more."""
        for name, peak in self.peak.items():
            if (growth := peak - self.before[name]) > limit_bytes:
                raise OverloadedError(f"the memory of {name} grew by {growth // MEBIBYTE} MiB")

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(1.0):
            for name, size in self._sizes().items():
                self.peak[name] = max(self.peak[name], size)

    def _sizes(self) -> dict[str, int]:
        return {name: sum(map(_resident, processes)) for name, processes in self._processes.items()}


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


@contextmanager
def api_loaded(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Load the API until the fault ends. Raises `OverloadedError` if another client was not served in time."""
    url, symbol = platform.settings.api_url, platform.emitted.feed.symbols[0]
    idle_s = _idle_latency_s(url, symbol)
    exports, deaf, readers = (int(parameters[name]) for name in ("exports", "deaf", "readers"))
    with (
        PeakMemory({API: platform.processes(API)}) as memory,
        ClientLoad(url, symbol, exports, deaf, readers) as load,
    ):
        yield
    limit_s = max(SERVED_WITHIN_S, IDLE_FACTOR * idle_s)
    if (p95_s := percentile(load.latencies_s, 0.95)) > limit_s:
        raise OverloadedError(f"a client was served in {p95_s:.2f} s (p95), idle {idle_s:.2f} s")
    if load.failures:
        raise OverloadedError(f"{len(load.failures)} of {len(load.latencies_s)} requests failed: {load.failures[0]}")
    memory.check(API_GROWTH_BYTES)


def _idle_latency_s(url: str, symbol: str) -> float:
    times = []
    for _ in range(IDLE_REQUESTS):
        began = time.monotonic()
        httpx.get(f"{url}/ohlcv/1m", params={"symbol": symbol, "limit": 100}, trust_env=False, timeout=60.0)
        times.append(time.monotonic() - began)
    return percentile(times, 0.95)


def api_left(platform: DrilledPlatform, _parameters: Parameters) -> Probe:
    """Return a probe: the API serves the newest bar, and the connections of the load are gone."""
    served = platform.served()
    return lambda: served() and _connections(platform) <= OPEN_CONNECTIONS


def _connections(platform: DrilledPlatform) -> int:
    processes = platform.processes(API)
    return len(processes[-1].net_connections("tcp")) if processes else 0


def _clients(draw: random.Random) -> Parameters:
    return {"exports": draw.randint(10, 60), "deaf": draw.randint(10, 100), "readers": draw.randint(2, 8)}


@contextmanager
def overloaded(platform: DrilledPlatform, _parameters: Parameters) -> Iterator[None]:
    """Wait for the feed's burst, and until it is over. Raises `OverloadedError` if a part's memory grew too much."""
    (burst,) = platform.emitted.feed.bursts
    _wait_until(platform, burst.begin_s)
    with PeakMemory({part: platform.processes(part) for part in STREAM_PARTS}) as memory:
        _wait_until(platform, burst.end_s)
        yield
    memory.check(STREAM_GROWTH_BYTES)


def _wait_until(platform: DrilledPlatform, second: int) -> None:
    """Wait until the exchange's clock has reached this second of the feed."""
    due_ms = (platform.emitted.begins.timestamp() + second) * 1000
    while platform.clock_ms() < due_ms:
        time.sleep(0.2)


def rate_of_machine(seed: int, report: Callable[[str], None] = print) -> int:
    """Return the highest rate (trades/s) of a ramp at which Bronze's lag does not grow, on a platform of its own."""
    bursts = tuple(
        Burst(WARM_UP_S + number * STEP_S, WARM_UP_S + (number + 1) * STEP_S, per_s)
        for number, per_s in enumerate(RAMP)
    )
    best = RAMP[0]
    with tempfile.TemporaryDirectory(prefix="ramp-", ignore_cleanup_errors=True) as directory:
        # The exchange's clock stops with the feed, which therefore goes on after the last burst.
        feed = Feed(seed, bursts[-1].end_s + WARM_UP_S, bursts=bursts)
        platform = DrilledPlatform(Path(directory) / "home", write_feed(feed, Path(directory) / "capture"))
        try:
            platform.start()
            for burst in bursts:
                _wait_until(platform, burst.begin_s)
                before_ms = _lag_ms(platform)
                _wait_until(platform, burst.end_s)
                after_ms = _lag_ms(platform)
                report(f"{burst.per_s} trades/s: Bronze's lag went from {before_ms} to {after_ms} ms")
                if after_ms > before_ms + LAG_GROWTH_MS:
                    break
                best = burst.per_s
        finally:
            platform.stop()
    return best


def _lag_ms(platform: DrilledPlatform) -> int:
    return platform.clock_ms() - platform.bronze_time_ms()


def overload_feed(seed: int, seconds: int) -> Feed:
    """Return a feed with a burst at twice the measured rate of the machine, half of the run long."""
    per_s = OVERLOAD * rate_of_machine(seed)
    lasts_s = min(LONGEST_BURST_S, seconds // 2)
    burst = Burst(WARM_UP_S, WARM_UP_S + lasts_s, per_s)
    return Feed(seed, burst.end_s + seconds + 1_800, bursts=(burst,))


ACTIONS: Final = (
    Action(
        name="api_load",
        fault=api_loaded,
        probe=api_left,
        parts=(API,),
        draw=_clients,
        lasts_s=(15.0, 60.0),
        needs=frozenset({API}),
        withholds=frozenset({API}),
        weight=0.5,
    ),
)
OVERLOAD_ACTIONS: Final = (
    Action(
        name="overload",
        fault=overloaded,
        probe=lambda platform, _: platform.stored_after_now(PRODUCER),
        needs=frozenset({PRODUCER}),
        withholds=frozenset({PRODUCER}),
    ),
)
