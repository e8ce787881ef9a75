"""Fills gaps of aggregate trades from the exchange's REST history, through the same queue, contract and topic.

Aggregates can be asked for by id without a key. Single trades cannot: their gaps stay open and say so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.exchange.records import AggTrade
from cryptolake_assets.stream.gaps import GapTracker, MissingRange

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
PAGE_PAUSE_S: Final = 1.0
"""Behind each request: a page weighs 20, the exchange allows 2,400 a minute, and others may use the same address."""
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 3_600.0
"""Before a range is asked for again that the exchange did not have, or that it could not be asked for."""


class TradeHistory(Protocol):
    """The exchange's aggregates by id."""

    async def agg_trades_from(self, symbol: str, first_id: int) -> list[AggTrade]:
        """A page of aggregates from `first_id` on, ascending. Raises `ExchangeError`."""


@dataclass
class _Tried:
    attempts: int
    not_before: float


class GapRepairer:
    """Asks for what a tracker misses. Frames go to `put`, as the exchange's stream would have sent them."""

    def __init__(
        self,
        tracker: GapTracker,
        history: TradeHistory,
        put: Callable[[bytes], Awaitable[None]],
        *,
        look_every_s: float = LOOK_EVERY_S,
        page_pause_s: float = PAGE_PAUSE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracker = tracker
        self._history = history
        self._put = put
        self._look_every_s = look_every_s
        self._page_pause_s = page_pause_s
        self._monotonic = monotonic
        self._tried: dict[MissingRange, _Tried] = {}

    async def run(self) -> None:
        """Repairs until it is cancelled."""
        while True:
            await asyncio.sleep(self._look_every_s)
            await self.repair()

    async def repair(self) -> None:
        """One look at all that is missing; what failed lately waits."""
        missing = self._tracker.missing()
        self._tried = {wanted: self._tried[wanted] for wanted in missing if wanted in self._tried}
        for wanted in missing:
            tried = self._tried.get(wanted)
            if tried is not None and self._monotonic() < tried.not_before:
                continue
            try:
                found = await self._fetch(wanted)
            except ExchangeError as error:
                log.warning("gap_not_repaired", symbol=wanted.symbol, first_missing_id=wanted.first, error=str(error))
                found = 0
            else:
                log.info(
                    "gap_fetched", symbol=wanted.symbol, first_missing_id=wanted.first, ids=wanted.ids, found=found
                )
            # Also where all came: they count once they went through the queue.
            attempts = tried.attempts + 1 if tried else 1
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempts - 1))
            self._tried[wanted] = _Tried(attempts, self._monotonic() + pause_s)

    async def _fetch(self, wanted: MissingRange) -> int:
        """Puts the range's trades, page by page; returns how many the exchange had."""
        found, next_id = 0, wanted.first
        while next_id <= wanted.last:
            page = await self._history.agg_trades_from(wanted.symbol, next_id)
            for row in page:
                if next_id <= row.agg_trade_id <= wanted.last:
                    await self._put(frame_of(wanted.symbol, row))
                    found += 1
            # Behind each request: a thousand small gaps are a thousand requests.
            await asyncio.sleep(self._page_pause_s)
            if not page or page[-1].agg_trade_id < next_id:
                break
            next_id = page[-1].agg_trade_id + 1
        return found


def frame_of(symbol: str, row: AggTrade) -> bytes:
    """An aggregate of REST as the stream sends it; its trade time stands for when it was sent."""
    data = {"e": "aggTrade", "E": row.transact_time_ms, "s": symbol, "a": row.agg_trade_id, "p": row.price}
    data |= {"q": row.qty, "f": row.first_trade_id, "l": row.last_trade_id, "T": row.transact_time_ms}
    return msgspec.json.encode(data | {"m": row.is_buyer_maker})
