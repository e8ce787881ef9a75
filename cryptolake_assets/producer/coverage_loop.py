"""The coverage loop: sends barriers on all connections, writes the proven coverage, checks for stale symbols.

A round follows the end of each minute of the exchange, so that its bars soon become final. Each market has its own
barriers, claims and stale symbols; a round writes the claims of all markets in one commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Final

import structlog

from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait
from cryptolake_assets.producer.connection_pool import ConnectionPool
from cryptolake_assets.producer.coverage_statements import ConnectionSpan, CoverageClaims, CoverageWriter
from cryptolake_assets.producer.gap_tracker import LastTrade
from cryptolake_assets.producer.stale_symbols import StaleSymbolWatch

log = structlog.get_logger(__name__)

LATE_MS: Final = 100  # frames arrive about this much later than their exchange time


class MarketCoverage:
    """The barriers, claims and stale symbols of one market's connections.

    `last` returns a symbol's newest trade. A round waits up to `claim_wait_s` for its claims; later ones are written in
    the next round.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        claims: CoverageClaims,
        last: Callable[[str], LastTrade | None],
        *,
        claim_wait_s: float,
    ) -> None:
        self._pool = pool
        self.claims = claims
        self._last = last
        self._claim_wait_s = claim_wait_s
        self._stale_symbols = StaleSymbolWatch()
        self._claimed = asyncio.Event()

    @property
    def stale_symbols(self) -> tuple[str, ...]:
        return self._stale_symbols.symbols

    def newest_ms(self) -> int | None:
        """Return the exchange time of the newest frame; None before the first one."""
        spans = (connection.span for connection in self._pool.connections)
        return max((span.last_ms for span in spans if span is not None and span.last_ms is not None), default=None)

    def claim_made(self) -> None:
        """Note that a connection's mark was acknowledged."""
        self._claimed.set()

    async def send_barriers(self) -> None:
        """Send a barrier on each connection, and wait for the claims that follow from them."""
        connections = self._pool.connections
        claims = {c.span: c.span.claims for c in connections if c.span is not None}
        spans = await asyncio.gather(*(connection.send_barrier() for connection in connections))
        await self._wait_for_claims({span: claims[span] for span in spans if span in claims})

    async def _wait_for_claims(self, before: dict[ConnectionSpan, int]) -> None:
        """Wait up to `claim_wait_s` until each span has another claim or has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._claim_wait_s):
                while any(span.claims == count and not span.ended for span, count in before.items()):
                    self._claimed.clear()
                    await self._claimed.wait()

    def check_stale_symbols(self) -> None:
        """Replace the connection of a stale symbol, in case the exchange has lost its subscription."""
        self._stale_symbols.forget_all_but(frozenset(self._pool.symbols))
        for connection in self._pool.connections:
            for symbol in connection.symbols:
                arrived_to_ms = self.claims.covered_to_ms.get(symbol)
                if arrived_to_ms is None:
                    continue
                last = self._last(symbol)
                latest = None if last is None else (last.trade_id, last.event_time_us // 1000)
                stale = self._stale_symbols.check(symbol, latest, arrived_to_ms)
                if stale is not None:
                    log.warning(
                        "symbol_stale",
                        symbol=symbol,
                        idle_s=round(stale.idle_ms / 1000),
                        limit_s=round(stale.limit_ms / 1000),
                        connection=connection.name,
                    )
                    self._pool.replace(connection)


class CoverageLoop:
    """Runs a round every `interval_s`, one when a connection has ended, and one `grace_ms` after the end of a minute.

    `markets` returns the coverage of each market. A round waits up to `barrier_wait_s` for their barriers: a market
    whose exchange does not respond delays the others no longer than that.
    """

    def __init__(
        self,
        markets: Callable[[], Collection[MarketCoverage]],
        writer: CoverageWriter,
        *,
        interval_s: float,
        grace_ms: int,
        barrier_wait_s: float,
    ) -> None:
        self._markets = markets
        self._writer = writer
        self._interval_s = interval_s
        self._grace_ms = grace_ms
        self._aimed_ms = 0  # the newest end of a minute that a round was scheduled for
        self._barrier_wait_s = barrier_wait_s
        self._barriers: dict[MarketCoverage, asyncio.Task[None]] = {}  # open ones, also of earlier rounds
        self._write_now = asyncio.Event()
        self._stopping = False

    def write_soon(self) -> None:
        """Run a round now."""
        self._write_now.set()

    def stop(self) -> None:
        """End `run` without another round."""
        self._stopping = True
        self._write_now.set()

    async def run(self) -> None:
        """Run rounds until stopped."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._wait_s()):
                        await self._write_now.wait()
                self._write_now.clear()
                if self._stopping:
                    return
                await self._send_barriers()
                await self.write()
                for market in self._markets():
                    market.check_stale_symbols()
        finally:
            await cancel_and_wait(list(self._barriers.values()))

    def _wait_s(self) -> float:
        """Return the time until the next round; each end of a minute is waited for once."""
        newest = [newest_ms for market in self._markets() if (newest_ms := market.newest_ms()) is not None]
        if not newest:
            return self._interval_s
        newest_ms = max(newest)
        end_ms = (newest_ms - self._grace_ms) // MINUTE_MS * MINUTE_MS + MINUTE_MS
        wait_s = (end_ms + self._grace_ms + LATE_MS - newest_ms) / 1000
        if end_ms <= self._aimed_ms or wait_s > self._interval_s:
            return self._interval_s
        self._aimed_ms = end_ms
        return wait_s

    async def _send_barriers(self) -> None:
        """Send the barriers of all markets and wait for their claims; skip markets with open barriers."""
        self._forget_ended()
        for market in self._markets():
            if market not in self._barriers:
                self._barriers[market] = asyncio.create_task(market.send_barriers())
        if self._barriers:
            await asyncio.wait(self._barriers.values(), timeout=self._barrier_wait_s)
        self._forget_ended()

    def _forget_ended(self) -> None:
        """Forget the ended tasks; raise what one of them raised."""
        for market in [market for market, task in self._barriers.items() if task.done()]:
            self._barriers.pop(market).result()

    async def write(self) -> bool:
        """Write the claims of all markets; return whether none is due."""
        return await self._writer.write([market.claims for market in self._markets()])
