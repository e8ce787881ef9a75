"""Gap repair from the exchange's REST history.

Fetched trades pass through the same queue, contract and topic as the stream's trades.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.lake.gap_ledger import OpenBecause
from cryptolake_assets.producer.gap_tracker import GapTracker, MissingRange
from cryptolake_assets.producer.rest_history import StreamHistory

log = structlog.get_logger(__name__)

POLL_S: Final = 1.0
FIRST_PAUSE_S: Final = 5.0
MAX_PAUSE_S: Final = 3_600.0  # maximum pause before a range is requested again
PAGES_A_TURN: Final = 20  # a large gap yields to the others after this many pages, and continues in the next round
# Requests for single trades start this many ids before the range: a missing id is outside the order book only if the
# exchange has trades before and after it. The history also omits, without notice, trades older than its start.
ANCHOR_IDS: Final = 50


@dataclass
class _Tried:
    attempts: int
    not_before: float


@dataclass
class _Fetched:
    found: int = 0
    absent: int = 0
    is_whole: bool = True  # whether the range was requested to its end


class GapRepairer:
    """Fetches the ids that a tracker misses; `put` receives frames as the exchange's stream would have sent them."""

    def __init__(
        self,
        tracker: GapTracker,
        history: StreamHistory,
        put: Callable[[bytes], Awaitable[None]],
        *,
        poll_s: float = POLL_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracker = tracker
        self._history = history
        self._put = put
        self._poll_s = poll_s
        self._monotonic = monotonic
        self._tried: dict[MissingRange, _Tried] = {}

    async def run(self) -> None:
        """Repair until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.repair()

    async def repair(self) -> None:
        """Try all missing ranges once; skip those that are pausing."""
        missing = self._tracker.missing()
        self._tried = {wanted: self._tried[wanted] for wanted in missing if wanted in self._tried}
        for wanted in missing:
            if not self._history.can_be_asked:
                self._tracker.explain(wanted, OpenBecause.NEEDS_KEY)
                continue
            tried = self._tried.get(wanted)
            if tried is not None and self._monotonic() < tried.not_before:
                continue
            if await self._repair(wanted):
                # Pause even if all trades were found: they count only after passing the queue.
                attempts = tried.attempts + 1 if tried else 1
                pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempts - 1))
                self._tried[wanted] = _Tried(attempts, self._monotonic() + pause_s)

    async def _repair(self, wanted: MissingRange) -> bool:
        """Fetch a range; return whether to pause before the next attempt, because the rest of it would be the same."""
        try:
            fetched = await self._fetch(wanted)
        except ExchangeError as error:
            log.warning("gap_repair_failed", symbol=wanted.symbol, first_missing_id=wanted.first, error=str(error))
            return True
        log.info(
            "gap_fetched",
            symbol=wanted.symbol,
            first_missing_id=wanted.first,
            ids=wanted.ids,
            found=fetched.found,
            not_order_book=fetched.absent,
        )
        if fetched.is_whole and fetched.found + fetched.absent < wanted.ids:
            self._tracker.explain(wanted, OpenBecause.NOT_AT_EXCHANGE)
        return fetched.is_whole

    async def _fetch(self, wanted: MissingRange) -> _Fetched:
        """Put the range's trades page by page; settle the ids that are no trades of the order book."""
        fetched = _Fetched()
        gapless = self._history.is_gapless
        next_id = wanted.first if gapless else max(0, wanted.first - ANCHOR_IDS)
        previous: int | None = None
        for _ in range(PAGES_A_TURN):
            page = await self._history.page(wanted.symbol, next_id)
            for trade in page:
                if trade.trade_id is None:
                    previous = None  # its id may be any up to the next trade's
                    continue
                if previous is not None and not gapless:
                    first, last = max(previous + 1, wanted.first), min(trade.trade_id - 1, wanted.last)
                    if first <= last:
                        self._tracker.settle(wanted.symbol, first, last)
                        fetched.absent += last - first + 1
                if wanted.first <= trade.trade_id <= wanted.last:
                    await self._put(trade.frame)
                    fetched.found += 1
                previous = trade.trade_id
            last_id = max((trade.trade_id for trade in page if trade.trade_id is not None), default=-1)
            if last_id < next_id or last_id >= wanted.last:
                return fetched
            next_id = last_id + 1
        fetched.is_whole = False
        return fetched
