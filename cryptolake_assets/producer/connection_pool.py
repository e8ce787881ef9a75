"""The connection pool: assigns tracked symbols to connections, and replaces these before the exchange ends them.

Every change works the same way: the pool opens a new connection next to the old one, and closes the old one once it has
handed over all frames that the exchange had sent by then. The overlap yields duplicates; no trade is missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import structlog

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.connection import MAX_STREAMS, ExchangeConnection
from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.machine import RANDOM, loop_time

log = structlog.get_logger(__name__)


class ConnectionPacer:
    """Spaces connection openings `apart_s` seconds apart."""

    def __init__(self, apart_s: float) -> None:
        self._apart_s = apart_s
        self._free_at = 0.0

    async def turn(self) -> None:
        """Wait until the caller may open its connection."""
        now = loop_time()
        wait_s, self._free_at = max(0.0, self._free_at - now), max(now, self._free_at) + self._apart_s
        await asyncio.sleep(wait_s)


@dataclass(frozen=True, slots=True)
class ConnectionPoolOptions:
    """How long connections live and how they are replaced."""

    life_s: float  # replace a connection at this age
    connect_apart_s: float = 1.0  # between two openings; the exchange allows 300 connections in 5 minutes per address
    life_spread: float = 0.04  # shorten lifetimes by up to this fraction: connections are not all replaced at once
    open_timeout_s: float = 60.0  # cancel a successor that is not open by then, and keep the old connection
    retry_s: float = 30.0  # before the next replacement attempt
    handover_timeout_s: float = 30.0  # close an old connection that has not handed over its frames by then
    random: Random = RANDOM


@dataclass(eq=False)
class _Shard:
    """The symbols of one connection; of two during a replacement."""

    connection: ExchangeConnection
    task: asyncio.Task[None]
    replace_at: float
    replacing: asyncio.Task[None] | None = None
    not_before: float = 0.0
    retiring: list[ExchangeConnection] = field(default_factory=list)


class ConnectionPool:
    """Keeps every tracked symbol on a connection.

    `make` builds a connection for some symbols without starting it; the connection awaits the given turn before each
    opening.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        make: Callable[[tuple[str, ...], Callable[[], Awaitable[None]]], ExchangeConnection],
        options: ConnectionPoolOptions,
    ) -> None:
        self._tracked = tuple(dict.fromkeys(symbols))
        self._make = make
        self._pace = ConnectionPacer(options.connect_apart_s)
        self._options = options
        self._shards: list[_Shard] = []
        self._changed = asyncio.Event()
        self.replacements = 0  # connections replaced by a successor

    @property
    def symbols(self) -> tuple[str, ...]:
        """The tracked symbols."""
        return self._tracked

    @property
    def connections(self) -> list[ExchangeConnection]:
        """All connections, including retiring ones."""
        return [connection for shard in self._shards for connection in (*shard.retiring, shard.connection)]

    def track(self, symbols: Sequence[str]) -> None:
        """Change the tracked symbols; symbols that remain tracked lose no trade."""
        tracked = tuple(dict.fromkeys(symbols))
        if set(tracked) != set(self._tracked):
            added, removed = sorted(set(tracked) - set(self._tracked)), sorted(set(self._tracked) - set(tracked))
            log.info("symbols_changed", symbols=len(tracked), added=added[:20], removed=removed[:20])
            self._tracked = tracked
            self._changed.set()

    def replace(self, connection: ExchangeConnection) -> None:
        """Replace a connection soon, whatever its age."""
        for shard in self._shards:
            if shard.connection is connection:
                shard.replace_at = 0.0
                self._changed.set()

    def replace_span(self, span: ConnectionSpan) -> None:
        """Replace the connection of this span soon, if it still exists."""
        for connection in self.connections:
            if connection.span is span:
                self.replace(connection)

    async def run(self) -> None:
        """Run all connections until cancelled. Raises what one of them raises."""
        try:
            for symbols in self._assigned_symbols():
                self._add(symbols)
            while True:
                self._start_due()
                await self._wait()
        finally:
            replacing = [shard.replacing for shard in self._shards if shard.replacing is not None]
            await cancel_and_wait([*replacing, *(shard.task for shard in self._shards)])

    def _add(self, symbols: tuple[str, ...]) -> None:
        connection = self._make(symbols, self._pace.turn)
        self._shards.append(_Shard(connection, asyncio.create_task(connection.run()), self._end_of_life()))

    def _end_of_life(self) -> float:
        spread = self._options.random.uniform(0, self._options.life_spread)
        return loop_time() + self._options.life_s * (1 - spread)

    async def _wait(self) -> None:
        """Wait for a change, a due replacement or the end of a task; raise the error that ended a connection."""
        changed = asyncio.create_task(self._changed.wait())
        tasks = [task for shard in self._shards for task in (shard.task, shard.replacing) if task is not None]
        due = [max(shard.replace_at, shard.not_before) for shard in self._shards if shard.replacing is None]
        timeout_s = max(0.0, min(due) - loop_time()) if due else None
        try:
            await asyncio.wait([changed, *tasks], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait([changed])
        self._changed.clear()
        for shard in self._shards:
            if shard.replacing is not None and shard.replacing.done():
                shard.replacing.result()
                shard.replacing = None
            if shard.task.done() and not shard.task.cancelled():
                shard.task.result()

    def _assigned_symbols(self) -> list[tuple[str, ...]]:
        """Return the tracked symbols by connection: assigned ones keep their connection, new ones fill free places."""
        tracked = set(self._tracked)
        shares = [[symbol for symbol in shard.connection.symbols if symbol in tracked] for shard in self._shards]
        assigned = {symbol for share in shares for symbol in share}
        for symbol in self._tracked:
            if symbol not in assigned:
                share = next((share for share in shares if len(share) < MAX_STREAMS), None)
                if share is None:
                    share = []
                    shares.append(share)
                share.append(symbol)
        return [tuple(share) for share in shares]

    def _start_due(self) -> None:
        """Start connections for new symbols, and due successors of old or changed connections."""
        shares = self._assigned_symbols()
        now = loop_time()
        for shard, share in list(zip(self._shards, shares, strict=False)):
            if shard.replacing is not None:
                continue  # checked again once it has ended
            if not share:
                shard.replacing = asyncio.create_task(self._retire(shard))
            elif (share != shard.connection.symbols or now >= shard.replace_at) and now >= shard.not_before:
                shard.replacing = asyncio.create_task(self._replace(shard, share))
        for share in shares[len(self._shards) :]:
            self._add(share)

    async def _retire(self, shard: _Shard) -> None:
        """Close a connection without tracked symbols."""
        await self._close_after_handover(shard.connection, shard.task)
        self._shards.remove(shard)
        self._changed.set()

    async def _replace(self, shard: _Shard, symbols: tuple[str, ...]) -> None:
        """Replace a connection by a successor; keep it if the successor does not open in time."""
        successor = self._make(symbols, self._pace.turn)
        task = asyncio.create_task(successor.run())
        old, old_task = shard.connection, shard.task
        if not await self._wait_until_open(successor, task):
            shard.replace_at = shard.not_before = loop_time() + self._options.retry_s
            log.warning("connection_replacement_failed", connection=old.name, retry_in_s=self._options.retry_s)
            return
        shard.retiring.append(old)
        shard.connection, shard.task, shard.replace_at = successor, task, self._end_of_life()
        self._changed.set()  # `_wait` must watch the new task
        try:
            await self._close_after_handover(old, old_task)
        finally:
            shard.retiring.remove(old)
        self.replacements += 1
        log.info("connection_replaced", connection=successor.name, replaced=old.name, symbols=len(symbols))

    async def _wait_until_open(self, connection: ExchangeConnection, task: asyncio.Task[None]) -> bool:
        """Return whether a connection opened in time; cancel it otherwise. Raises what it raises."""
        opened = asyncio.create_task(connection.opened.wait())
        is_open = False
        try:
            await asyncio.wait(
                [opened, task], timeout=self._options.open_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                task.result()
            is_open = opened.done()
        finally:
            await cancel_and_wait([opened] if is_open else [opened, task])
        return is_open

    async def _close_after_handover(self, old: ExchangeConnection, task: asyncio.Task[None]) -> None:
        """Close a connection once it has handed over all frames that the exchange has sent so far."""
        try:
            async with asyncio.timeout(self._options.handover_timeout_s):
                await old.wait_until_handed_over()
        except (TimeoutError, ExchangeError):
            log.warning("handover_timed_out", connection=old.name)
        finally:
            await cancel_and_wait([task])
