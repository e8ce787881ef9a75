"""Steps of part `api`, each in a separate process: generate a year of bars, run the servers, send requests."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import lakes
from benchmarks.runner import progress
from benchmarks.steps import main

FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
CONNECTIONS = 8
START_TIMEOUT_S = 60
DAY_MINUTES = 1_440


def symbol_name(number: int) -> str:
    return f"COIN{number:02d}USDT"


def make_year(home: str, days: int, symbols: int) -> int:
    """Create a lake with a bar per minute, in a file per day like Silver's writer; return the number of rows."""
    from cryptolake_assets.lake.bootstrap import bootstrap
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.model.family_tables import FUTURES

    lakes.give_ports(Path(home))
    settings = lakes.lake_settings(Path(home))
    bootstrap(settings)
    table = load_table(settings, FUTURES.bars)
    rng = np.random.default_rng(7)
    rows = 0
    for first in range(0, days, 30):
        part = _bars(rng, first, min(30, days - first), symbols)
        table.append(part.cast(FUTURES.bars.arrow_schema()))
        rows += part.num_rows
        progress(min(1.0, (first + 30) / days))
    return rows


def _bars(rng: np.random.Generator, first: int, days: int, symbols: int) -> Any:
    """Return bars by (day, symbol, minute), with numbers of realistic width."""
    import duckdb
    import pyarrow as pa

    number = days * symbols * DAY_MINUTES
    index = np.arange(number)
    minute = index % DAY_MINUTES + (index // (symbols * DAY_MINUTES) + first) * DAY_MINUTES
    columns = {
        "symbol_number": index // DAY_MINUTES % symbols,
        "minute": minute,
        "price": rng.integers(6_000_000, 7_000_000, number),
        "qty": rng.integers(1_000, 900_000, number),
        "trades": rng.integers(100, 9_000, number),
    }
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("numbers", pa.table(columns))
    start_us = int(FIRST_DAY.timestamp()) * 1_000_000
    price = "CAST(price / 100.0 AS decimal(18,8))"
    qty, quote = "CAST(qty / 1000.0 AS decimal(38,8))", "CAST(qty * price / 100000.0 AS decimal(38,16))"
    return connection.sql(
        f"""SELECT 'binance_futures' AS exchange, printf('COIN%02dUSDT', symbol_number) AS symbol,
          make_timestamptz({start_us} + minute * 60000000) AS window_start,
          {price} AS open, {price} + 10 AS high, {price} - 10 AS low, {price} + 5 AS close,
          {qty} AS volume, {quote} AS quote_volume, {price} AS vwap, trades,
          {qty} AS taker_buy_volume, {quote} AS taker_buy_quote_volume,
          minute * 10000 AS first_trade_id, minute * 10000 + trades AS last_trade_id, true AS is_complete,
          make_timestamptz({start_us}) AS updated_at, 0::BIGINT AS trades_dropped, 'ids' AS evidence, 'trade' AS stream
        FROM numbers"""
    ).to_arrow_table()


def cold(home: str, days: int, symbols: int, queries: int, seed: int) -> dict[str, Any]:
    """Request many different (symbol, day) from the API sequentially, each once."""
    settings = lakes.lake_settings(Path(home))
    with _server([sys.executable, "-m", "cryptolake_assets.api"], settings.api_port, home) as process:
        return _one_by_one(settings.api_port, process, _days(days, symbols, queries, seed))


def cold_per_request(home: str, days: int, symbols: int, queries: int, seed: int) -> dict[str, Any]:
    """Like `cold`, from a server that loads the table with PyIceberg and reads its files with DuckDB per request."""
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--port", str(port)]
    with _server([*command, "benchmarks.bare.api:per_request"], port, home) as process:
        return _one_by_one(port, process, _days(days, symbols, queries, seed))


def warm(home: str, seconds: float) -> dict[str, Any]:
    """Request one day of one symbol repeatedly, from the API with and without its ETag and from the bare routes."""
    settings = lakes.lake_settings(Path(home))
    path = _days(1, 1, 1, 1)[0]
    bare_port = _free_port()
    bare = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--no-access-log", "--port", str(bare_port)]
    with _server([sys.executable, "-m", "cryptolake_assets.api"], settings.api_port, home):
        status, headers, body = _get(settings.api_port, path)
        assert status == 200
        (Path(home) / "response.json").write_bytes(body)
        with _server([*bare, "benchmarks.bare.api:bare"], bare_port, home):
            etag = {"If-None-Match": headers["etag"]}
            return {
                "warm": _load(settings.api_port, path, {}, seconds, 200),
                "bare": _load(bare_port, "/bytes?symbol=A", {}, seconds, 200),
                "conditional": _load(settings.api_port, path, etag, seconds, 304),
                "bare_empty": _load(bare_port, "/empty?symbol=A", etag, seconds, 304),
            }


def _days(days: int, symbols: int, number: int, seed: int) -> list[str]:
    """Return the paths of `number` different (symbol, day)."""
    pairs = [(symbol, day) for symbol in range(symbols) for day in range(days)]
    chosen = random.Random(seed).sample(pairs, min(number, len(pairs)))  # noqa: S311
    return [
        f"/ohlcv/1m?symbol={symbol_name(symbol)}&start={day:%Y-%m-%d}&end={day:%Y-%m-%d}T23:59:59Z&limit={DAY_MINUTES}"
        for symbol, day in ((symbol, FIRST_DAY + timedelta(days=offset)) for symbol, offset in chosen)
    ]


def _one_by_one(port: int, process: subprocess.Popen[bytes], paths: list[str]) -> dict[str, Any]:
    import psutil

    watched, peak, ended = psutil.Process(process.pid), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, watched.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    times_ms = []
    for number, path in enumerate(paths):
        began = time.perf_counter()
        status, _, body = _get(port, path)
        times_ms.append((time.perf_counter() - began) * 1000)
        assert status == 200, body[:300]
        assert body.count(b'"window_start"') == DAY_MINUTES
        progress((number + 1) / len(paths))
    ended.set()
    watcher.join()
    return {**_percentiles(times_ms), "queries": len(paths), "peak_mb": peak / 1e6}


def _percentiles(times_ms: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(float(np.percentile(times_ms, 50)), 3),
        "p99_ms": round(float(np.percentile(times_ms, 99)), 3),
        "first_ms": round(times_ms[0], 3),
    }


@contextmanager
def _server(command: list[str], port: int, home: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = lakes.lake_settings(Path(home))
    environment = {**os.environ, **settings.environment(), "BENCH_HOME": home}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"the server exited with code {process.returncode}"
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _request(path: str, headers: dict[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    result = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return result


class _Client(asyncio.Protocol):
    """A minimal client that repeats the same request as soon as it has received the response."""

    def __init__(self, request: bytes, status: bytes, done: Callable[[float], bool]) -> None:
        self._request, self._status, self._done = request, status, done
        self._head = b""
        self._remaining: int | None = None
        self._sent = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._head, self._remaining = b"", None
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._remaining is None:
            self._head += data
            head, separator, body = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            assert head.split(b" ", 2)[1] == self._status, head
            lines = head.lower().split(b"\r\n")
            lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
            self._remaining = (lengths[0] if lengths and self._status != b"304" else 0) - len(body)
        else:
            self._remaining -= len(data)
        if self._remaining <= 0:
            if self._done(time.perf_counter() - self._sent):
                self._transport.close()
            else:
                self._send()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _load(port: int, path: str, headers: dict[str, str], seconds: float, status: int) -> dict[str, float]:
    """Return requests per second over `CONNECTIONS` connections, and latency percentiles."""

    async def run() -> dict[str, float]:
        times: list[float] = []
        warm_until = time.perf_counter() + seconds / 4
        until = warm_until + seconds

        def done(took_s: float) -> bool:
            now = time.perf_counter()
            if now > warm_until:
                times.append(took_s * 1000)
            return now > until

        loop = asyncio.get_running_loop()
        request = _request(path, headers)
        clients = [
            (await loop.create_connection(lambda: _Client(request, str(status).encode(), done), "127.0.0.1", port))[1]
            for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(*(client.ended for client in clients))
        return {"per_s": len(times) / seconds, **_percentiles(times)}

    return asyncio.run(run())


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (make_year, cold, cold_per_request, warm)}


if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
