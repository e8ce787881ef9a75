"""The coverage loop: sends barriers on all connections, writes the proven coverage, checks for stale symbols."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from cryptolake_assets.producer.connection_pool import ConnectionPool
from cryptolake_assets.producer.coverage_statements import ConnectionSpan, CoverageWriter
from cryptolake_assets.producer.gap_tracker import LastTrade
from cryptolake_assets.producer.stale_symbols import StaleSymbolWatch

log = structlog.get_logger(__name__)


class CoverageLoop:
    """Runs a round every `interval_s`, and one when a connection has ended.

    `last` returns a symbol's newest trade. A round waits up to `claim_wait_s` for its barriers; the next round writes
    late claims.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        coverage: CoverageWriter,
        last: Callable[[str], LastTrade | None],
        *,
        interval_s: float,
        claim_wait_s: float,
    ) -> None:
        self._pool = pool
        self._coverage = coverage
        self._last = last
        self._interval_s = interval_s
        self._claim_wait_s = claim_wait_s
        self._stale_symbols = StaleSymbolWatch()
        self._claimed = asyncio.Event()
        self._write_now = asyncio.Event()
        self._stopping = False

    @property
    def stale_symbols(self) -> tuple[str, ...]:
        return self._stale_symbols.symbols

    def claim_made(self, *, ended: bool) -> None:
        """Note that a connection's mark was acknowledged; if the connection has `ended`, write at once."""
        self._claimed.set()
        if ended:
            self._write_now.set()

    def stop(self) -> None:
        """End `run` without another round."""
        self._stopping = True
        self._write_now.set()

    async def run(self) -> None:
        """Run rounds until stopped."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._write_now.wait()
            self._write_now.clear()
            if self._stopping:
                return
            connections = self._pool.connections
            claims = {c.span: c.span.claims for c in connections if c.span is not None}
            spans = await asyncio.gather(*(connection.send_barrier() for connection in connections))
            await self._wait_for_claims({span: claims[span] for span in spans if span in claims})
            await self._coverage.write()
            self._check_stale_symbols()

    async def _wait_for_claims(self, before: dict[ConnectionSpan, int]) -> None:
        """Wait up to `claim_wait_s` until each span has another claim or has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._claim_wait_s):
                while any(span.claims == count and not span.ended for span, count in before.items()):
                    self._claimed.clear()
                    await self._claimed.wait()

    def _check_stale_symbols(self) -> None:
        """Replace the connection of a stale symbol, in case the exchange has lost its subscription."""
        self._stale_symbols.forget_all_but(frozenset(self._pool.symbols))
        for connection in self._pool.connections:
            for symbol in connection.symbols:
                arrived_to_ms = self._coverage.covered_to_ms.get(symbol)
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
