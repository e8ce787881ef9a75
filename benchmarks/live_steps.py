"""The step of part `live`, in a separate process: measure a platform that follows generated trades."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import orjson
import psutil
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from benchmarks.runner import progress
from benchmarks.steps import main
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.live.settled_counts import settled_counts
from cryptolake_assets.live.settlement import SettledOutcome
from cryptolake_assets.model.markets import Family
from cryptolake_assets.platform.parts import API, EXCHANGE, local_parts
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.settings import Settings
from reliability.drills.drilled_platform import DrilledPlatform
from reliability.drills.feed import Feed, minute_begin, write_feed

SYMBOLS_A_CLIENT: Final = 150
START_MIN: Final = 2  # the feed begins so many minutes after the current one, when it is written and the platform runs
START_S: Final = 180  # of the feed before the warm-up ends
# Drills use shorter intervals.
DEFAULTS: Final = {
    name: Settings.model_fields[name].default
    for name in ("coverage_interval_s", "bronze_trigger_s", "silver_interval_s", "gold_interval_min")
}
SAMPLE_S: Final = 5.0
MINUTE_S: Final = 60
UNCHANGED_SAMPLES: Final = 12  # without a further settled minute, at the end of a replay


def measure(directory: str, symbols: int, per_s: int, seed: int, warm_up_s: int, seconds: int) -> dict[str, Any]:
    """Start a live platform, follow its bars as clients do, and return what they and the processes showed.

    The exchange sends `per_s` trades in each second, of all symbols alike, with present times.
    """
    shutil.rmtree(directory, ignore_errors=True)
    names = _names(symbols)
    # The feed outlasts the measurement, as the exchange's clock stops with it.
    feed = Feed(seed, START_S + warm_up_s + seconds, names, (per_s, per_s), begins=minute_begin(START_MIN))
    emitted = write_feed(feed, Path(directory) / "capture")
    platform = DrilledPlatform(
        Path(directory) / "home", emitted, {**DEFAULTS, "symbols": ",".join(names)}, is_live=True
    )
    try:
        platform.start()
        return asyncio.run(_follow(platform.settings, SentTrades.of_capture(emitted.directory), warm_up_s, seconds))
    finally:
        platform.stop()


def compare(directory: str, symbols: int, per_s: int, seed: int, minutes: int, speed: float) -> dict[str, int]:
    """Replay trades faster than real time; return how the bars of the tail compared with Silver's, by outcome.

    The exchange's clock shows the time of the trades, of which there are `per_s` in each of its seconds.
    """
    shutil.rmtree(directory, ignore_errors=True)
    names = _names(symbols)
    emitted = write_feed(Feed(seed, minutes * MINUTE_S, names, (per_s, per_s)), Path(directory) / "capture")
    platform = DrilledPlatform(
        Path(directory) / "home", emitted, {**DEFAULTS, "symbols": ",".join(names), "replay_speed": speed}
    )
    try:
        platform.start()
        found: Mapping[SettledOutcome, int] = {}
        unchanged = 0
        # Silver has the last minutes some time after the exchange's clock has stopped.
        while unchanged < UNCHANGED_SAMPLES or platform.exchange_status()["state"] != "finished":
            time.sleep(SAMPLE_S)
            before, found = found, settled_counts(platform.settings, Family.FUTURES) or {}
            unchanged = unchanged + 1 if found == before else 0
            progress(sum(found.values()) / len(emitted.bars))
        return {outcome.value: count for outcome, count in found.items()}
    finally:
        platform.stop()


def _names(symbols: int) -> tuple[str, ...]:
    return tuple(f"C{number:03}USDT" for number in range(symbols))


@dataclass(frozen=True)
class SentTrades:
    """The trades of a feed by symbol: the last single id of each, and its time in ms of the exchange's clock."""

    last_ids: Mapping[str, Any]
    times_ms: Mapping[str, Any]

    @classmethod
    def of_capture(cls, directory: Path) -> SentTrades:
        ids: defaultdict[str, list[int]] = defaultdict(list)
        times: defaultdict[str, list[int]] = defaultdict(list)
        for frame in read_frames(directory):
            trade = orjson.loads(frame.raw)["data"]
            ids[trade["s"]].append(trade["l"])
            times[trade["s"]].append(trade["T"])
        return cls({name: np.array(values) for name, values in ids.items()}, {k: np.array(v) for k, v in times.items()})

    def between(self, symbol: str, after_id: int, to_id: int) -> Any:
        """Return the times of the symbol's trades with after_id < last id <= to_id."""
        first, last = np.searchsorted(self.last_ids[symbol], [after_id, to_id], side="right")
        return self.times_ms[symbol][first:last]


@dataclass
class SeenBars:
    """The bars that clients have received. Times are of the exchange's clock: ours plus `offset_ms`."""

    sent: SentTrades
    offset_ms: float = 0.0
    from_ms: float = inf  # earlier trades and minutes are of the warm-up
    newest: dict[str, int] = field(default_factory=dict)  # last single id seen, by symbol
    ages_ms: list[Any] = field(default_factory=list)
    final_s: dict[tuple[str, str], float] = field(default_factory=dict)  # by symbol and minute, since the minute's end

    def see(self, message: bytes | str) -> None:
        now_ms = time.time() * 1000 + self.offset_ms
        for bar in orjson.loads(message)["bars"]:
            symbol, last_id = bar["symbol"], bar["last_trade_id"]
            known = self.newest.get(symbol)
            if known is not None and last_id > known:
                times = self.sent.between(symbol, known, last_id)
                self.ages_ms.append(now_ms - times[times >= self.from_ms])
            self.newest[symbol] = max(last_id, known or 0)
            if bar["state"] == "final":
                end_ms = (datetime.fromisoformat(bar["window_start"]).timestamp() + MINUTE_S) * 1000
                if end_ms >= self.from_ms:
                    self.final_s.setdefault((symbol, bar["window_start"]), (now_ms - end_ms) / 1000)


async def _follow(settings: Settings, sent: SentTrades, warm_up_s: int, seconds: int) -> dict[str, Any]:
    usage = Usage(settings)
    before_mb = usage.memory_mb()[API]
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
        seen = SeenBars(sent)
        async with _clients(settings, sorted(sent.last_ids), seen):
            await asyncio.sleep(warm_up_s)
            seen.offset_ms = await _clock_offset_ms(http, settings)
            seen.from_ms = time.time() * 1000 + seen.offset_ms
            usage.begin()
            for second in range(0, seconds, round(SAMPLE_S)):
                await asyncio.sleep(SAMPLE_S)
                usage.sample()
                progress((second + SAMPLE_S) / seconds)
            used = usage.figures()
        metrics = (await http.get(f"{settings.api_url}/metrics")).raise_for_status().text
    ages = np.concatenate(seen.ages_ms)
    finals = np.array(list(seen.final_s.values()))
    return {
        "latency_ms": {**_quantiles(ages, 1), "trades": len(ages)},
        "final_s": {**_quantiles(finals, 2), "minutes": len(finals)},
        "compared": settled_counts(settings, Family.FUTURES) or {},
        "tail_minutes": _value(metrics, "cryptolake_api_tail_minutes"),
        "api_growth_mb": round(used["mb_by_part"][API] - before_mb),
        **used,
    }


def _quantiles(values: Any, places: int) -> dict[str, float]:
    found = np.percentile(values, [50, 95, 99, 100])
    return dict(zip(("p50", "p95", "p99", "max"), (round(float(value), places) for value in found), strict=True))


async def _clock_offset_ms(http: httpx.AsyncClient, settings: Settings) -> float:
    """Return the exchange's clock minus ours: the largest of some readings, as a response takes time."""
    readings = []
    for _ in range(50):
        status = (await http.get(f"http://{settings.replay_address}/replay/status")).raise_for_status().json()
        readings.append(float(status["clock_ms"]) - time.time() * 1000)
        await asyncio.sleep(0.02)
    return max(readings)


@asynccontextmanager
async def _clients(settings: Settings, symbols: list[str], seen: SeenBars) -> AsyncIterator[None]:
    """Follow all symbols over WebSockets."""

    async def follow(names: Iterable[str]) -> None:
        url = f"{settings.api_url.replace('http', 'ws', 1)}/ws/ohlcv?symbols={','.join(names)}"
        while True:
            async with connect(url, max_size=None, compression=None) as socket:
                # The API rejects symbols without a trade: try again.
                with suppress(ConnectionClosedError):
                    async for message in socket:
                        seen.see(message)
            await asyncio.sleep(1)

    groups = (symbols[begin : begin + SYMBOLS_A_CLIENT] for begin in range(0, len(symbols), SYMBOLS_A_CLIENT))
    tasks = [asyncio.create_task(follow(group)) for group in groups]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Usage:
    """Processor time and memory of a platform's processes, by part, without the replay exchange."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts = [part.name for part in local_parts(settings) if part.name != EXCHANGE]
        self._began_s, self._began_cpu_s = 0.0, self._cpu_s()
        self._peak: dict[str, float] = {}

    def _processes(self) -> Iterable[tuple[str, psutil.Process]]:
        running = Supervisor(self._settings).processes()
        for part in self._parts:
            info = running.get(part)
            if info is None or info.pid is None:
                continue
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(info.pid)
                for one in (process, *process.children(recursive=True)):
                    yield part, one

    def begin(self) -> None:
        self._began_s, self._began_cpu_s, self._peak = time.monotonic(), self._cpu_s(), {}

    def sample(self) -> None:
        """Note the memory if it is a new peak."""
        memory = self.memory_mb()
        if sum(memory.values()) > sum(self._peak.values()):
            self._peak = memory

    def _cpu_s(self) -> dict[str, float]:
        """Return the processor time by part; a process that has ended counts with its parent."""
        found: defaultdict[str, float] = defaultdict(float)
        for part, process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[part] += times.user + times.system + times.children_user + times.children_system
        return found

    def memory_mb(self) -> dict[str, float]:
        """Return the proportional set size by part: shared pages count once."""
        found: defaultdict[str, float] = defaultdict(float)
        for part, process in self._processes():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found[part] += process.memory_full_info().pss / 1e6
        return dict(found)

    def figures(self) -> dict[str, Any]:
        elapsed_s = time.monotonic() - self._began_s
        used_s = self._cpu_s()
        cores = {part: round((used_s[part] - self._began_cpu_s[part]) / elapsed_s, 3) for part in self._parts}
        return {
            "cores": round(sum(cores.values()), 2),
            "cores_by_part": cores,
            "platform_mb": round(sum(self._peak.values())),
            "mb_by_part": {part: round(value) for part, value in self._peak.items()},
        }


def _value(metrics: str, name: str) -> float:
    return sum(
        sample.value
        for metric in text_string_to_metric_families(metrics)
        for sample in metric.samples
        if sample.name == name
    )


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (measure, compare)}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
