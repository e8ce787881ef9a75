"""Requests trades after the last known one if the stream does not reveal them.

A busy symbol reveals missing trades by the id of its next trade. A stale symbol, or one without trades
since a (re)connection, does not: its missing trades would be found with its next trade, hours later. Trades found here
become a regular gap, which the repairer fills.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from cryptolake_assets.errors import ExchangeError, UnknownSymbolError
from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.gap_tracker import GapTracker, LastTrade
from cryptolake_assets.producer.machine import loop_time
from cryptolake_assets.producer.rest_history import StreamHistory

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CatchUpOptions:
    """When to request the newest trades of a symbol; the defaults suit the exchange."""

    poll_s: float = 1.0
    after_opening_s: float = 5.0  # request after this long without a trade on a new connection
    # Request after this long without a trade on an open connection; the pause doubles after each empty response.
    stale_s: float = 60.0
    max_stale_s: float = 3_600.0
    settle_s: float = 1.0  # wait this long for the stream to deliver the newest trades of the history
    retry_s: float = 5.0


@dataclass
class _Watched:
    last: LastTrade
    request_at: float
    pause_s: float


class CatchUp:
    """Watches the symbols of the open connections; skips symbols without a known trade."""

    def __init__(
        self,
        tracker: GapTracker,
        history: StreamHistory,
        *,
        spans: Callable[[], Collection[ConnectionSpan]],
        is_idle: Callable[[], bool],
        options: CatchUpOptions | None = None,
        monotonic: Callable[[], float] = loop_time,
    ) -> None:
        """`spans` returns the spans of the open connections.

        `is_idle` returns whether the tracker has seen every received frame; before that, missing trades are unknown.
        """
        self._tracker = tracker
        self._history = history
        self._spans = spans
        self._is_idle = is_idle
        self._options = options or CatchUpOptions()
        self._monotonic = monotonic
        self._known_spans: set[ConnectionSpan] = set()
        self._watched: dict[str, _Watched] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._options.poll_s)
            await self.check()

    async def check(self) -> None:
        """Check all symbols once; request the newest trades of those that are due."""
        if self._history.unavailable_because is not None:
            return
        spans = set(self._spans())
        opened = spans - self._known_spans
        self._known_spans = spans
        symbols = {symbol for span in spans for symbol in span.symbols}
        self._watched = {symbol: watched for symbol, watched in self._watched.items() if symbol in symbols}
        for symbol in sorted(symbols):
            self._watch(symbol, is_new=any(symbol in span.symbols for span in opened))
        for symbol, watched in list(self._watched.items()):
            if self._monotonic() >= watched.request_at and self._is_idle():
                await self._request(symbol, watched)

    def _watch(self, symbol: str, *, is_new: bool) -> None:
        last, watched = self._tracker.last(symbol), self._watched.get(symbol)
        if last is None:
            return
        now, options = self._monotonic(), self._options
        if is_new:
            self._watched[symbol] = _Watched(last, now + options.after_opening_s, options.stale_s)
        elif watched is None or watched.last != last:
            self._watched[symbol] = _Watched(last, now + options.stale_s, options.stale_s)

    async def _request(self, symbol: str, watched: _Watched) -> None:
        """Request trades after the last known one, and report the newest to the tracker."""
        try:
            page = await self._history.page(symbol, watched.last.trade_id + 1)
        except ExchangeError as error:
            log.warning("newest_trades_unknown", symbol=symbol, error=str(error))
            watched.request_at = self._monotonic() + self._options.retry_s
            return
        except UnknownSymbolError as error:
            log.warning("newest_trades_unknown", symbol=symbol, error=str(error))
            page = []  # delisted: no new trades
        # A malformed row has no time; the repairer handles it in the gap that the next trade reveals.
        known = [(row.trade_id, row.time_ms) for row in page if row.trade_id is not None and row.time_ms is not None]
        if not known:
            watched.pause_s = min(self._options.max_stale_s, watched.pause_s * 2)
            watched.request_at = self._monotonic() + watched.pause_s
            return
        if len(page) < self._history.page_size:
            # The stream may still deliver the newest of them.
            await asyncio.sleep(self._options.settle_s)
        last = self._tracker.last(symbol)
        if not self._is_idle() or last is None:
            return
        newest_id, newest_ms = known[-1]
        if newest_id > last.trade_id:
            log.warning("newest_trades_missing", symbol=symbol, after_id=last.trade_id, newest_id=newest_id)
            self._tracker.extend_to(symbol, LastTrade(newest_id, newest_ms * 1000))
        # After a full page more may follow: request again at once.
        self._watched[symbol] = _Watched(
            self._tracker.last(symbol) or last,
            self._monotonic() + (0.0 if len(page) >= self._history.page_size else self._options.stale_s),
            self._options.stale_s,
        )
