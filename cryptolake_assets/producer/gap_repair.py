"""Gap repair from the exchange's REST history.

Fetched trades pass through the same queue, contract and topic as the stream's trades.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from cryptolake_assets.errors import ExchangeError, UnknownSymbolError
from cryptolake_assets.lake.gap_ledger import OpenBecause
from cryptolake_assets.producer.gap_tracker import GapTracker
from cryptolake_assets.producer.machine import loop_time
from cryptolake_assets.producer.open_gap import MissingRange
from cryptolake_assets.producer.rest_history import StreamHistory

log = structlog.get_logger(__name__)

POLL_S: Final = 1.0
FIRST_PAUSE_S: Final = 5.0
MAX_PAUSE_S: Final = 3_600.0  # maximum pause before a range is requested again
PAGES_PER_ROUND: Final = 20  # pages per gap and round, so that a large gap does not block the others
# Requests for single trades start this many ids before the range: a missing id is outside the order book only if the
# history has trades before and after it. The history also omits trades older than its start.
ANCHOR_IDS: Final = 50


@dataclass
class _Attempts:
    count: int
    not_before: float


@dataclass
class _Fetched:
    found: int = 0
    not_order_book: int = 0
    is_complete: bool = True  # the range was requested to its end
    is_passed: bool = False  # the history has an id at or above the range's last: what it lacks, it does not have


class GapRepairer:
    """Fetches the ids that a tracker misses; `put` receives frames as the exchange's stream would have sent them."""

    def __init__(
        self,
        tracker: GapTracker,
        history: StreamHistory,
        put: Callable[[bytes], Awaitable[None]],
        *,
        poll_s: float = POLL_S,
        monotonic: Callable[[], float] = loop_time,
    ) -> None:
        self._tracker = tracker
        self._history = history
        self._put = put
        self._poll_s = poll_s
        self._monotonic = monotonic
        self._tried: dict[MissingRange, _Attempts] = {}

    async def run(self) -> None:
        """Repair until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.repair()

    async def repair(self) -> None:
        """Try all missing ranges once; skip those in a pause."""
        ranges = self._tracker.missing()
        self._tried = {missing: self._tried[missing] for missing in ranges if missing in self._tried}
        for missing in ranges:
            if (because := self._history.unavailable_because) is not None:
                self._tracker.explain(missing, because)
                continue
            tried = self._tried.get(missing)
            if tried is not None and self._monotonic() < tried.not_before:
                continue
            if await self._repair(missing):
                # Pause even if all trades were found: they count only after passing the queue.
                attempts = tried.count + 1 if tried else 1
                pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempts - 1))
                self._tried[missing] = _Attempts(attempts, self._monotonic() + pause_s)

    async def _repair(self, missing: MissingRange) -> bool:
        """Fetch a range; return whether to pause before the next attempt."""
        try:
            fetched = await self._fetch(missing)
        except (ExchangeError, UnknownSymbolError) as error:  # an unknown symbol was delisted
            log.warning("gap_repair_failed", symbol=missing.symbol, first_missing_id=missing.first, error=str(error))
            return True
        log.info(
            "gap_fetched",
            symbol=missing.symbol,
            first_missing_id=missing.first,
            ids=missing.ids,
            found=fetched.found,
            not_order_book=fetched.not_order_book,
        )
        if fetched.is_complete and fetched.found + fetched.not_order_book < missing.ids:
            self._tracker.explain(missing, OpenBecause.NOT_AT_EXCHANGE, is_final=fetched.is_passed)
        return fetched.is_complete

    async def _fetch(self, missing: MissingRange) -> _Fetched:
        """Put the range's trades page by page; mark the ids that are not trades of the order book."""
        fetched = _Fetched()
        gapless = self._history.is_gapless
        next_id = missing.first if gapless else max(0, missing.first - ANCHOR_IDS)
        previous: int | None = None
        for _ in range(PAGES_PER_ROUND):
            page = await self._history.page(missing.symbol, next_id)
            for trade in page:
                if trade.trade_id is None:
                    previous = None  # a malformed row may have any id up to the next trade's
                    continue
                if previous is not None and not gapless:
                    first, last = max(previous + 1, missing.first), min(trade.trade_id - 1, missing.last)
                    if first <= last:
                        self._tracker.mark_not_order_book(missing.symbol, first, last)
                        fetched.not_order_book += last - first + 1
                if missing.first <= trade.trade_id <= missing.last:
                    await self._put(trade.frame)
                    fetched.found += 1
                previous = trade.trade_id
            last_id = max((trade.trade_id for trade in page if trade.trade_id is not None), default=-1)
            fetched.is_passed = last_id >= missing.last
            if last_id < next_id or fetched.is_passed:
                return fetched
            next_id = last_id + 1
        fetched.is_complete = False
        return fetched
