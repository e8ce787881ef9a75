"""Snapshots of order books by REST: at a symbol's first update, after each break of its chain, and at intervals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import structlog

from cryptolake_assets.binance.depth_frames import parse_snapshot
from cryptolake_assets.errors import ExchangeError, UnknownSymbolError
from cryptolake_assets.model.events import DepthSnapshotEvent, DepthUpdateEvent, RejectedFrame
from cryptolake_assets.producer.machine import Machine, loop_time
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

POLL_S: Final = 0.05
FIRST_PAUSE_S: Final = 0.5  # before the next request of a symbol whose snapshot failed or was too old
MAX_PAUSE_S: Final = 60.0


class SnapshotSource(Protocol):
    """The exchange's order books by REST."""

    async def depth(self, symbol: str, limit: int) -> bytes:
        """Return the body of a snapshot. Raises `ExchangeError`, or `UnknownSymbolError` for an unlisted symbol."""


class ReceivedSnapshot(NamedTuple):
    """A response, and what the contract makes of it."""

    symbol: str
    body: bytes
    received_at_us: int
    event: DepthSnapshotEvent | RejectedFrame


@dataclass
class _Chain:
    """The updates of a symbol since the last break."""

    first_id: int  # a snapshot of this id or a later one joins them
    last_id: int
    due_at: float  # loop time of the next request
    pause_s: float


class DepthSnapshots:
    """Requests the snapshots that the updates of one market's symbols need."""

    def __init__(
        self,
        settings: Settings,
        source: SnapshotSource,
        symbols: Callable[[], Sequence[str]],
        put: Callable[[ReceivedSnapshot], Awaitable[None]],
        machine: Machine,
        *,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """`put` takes over each new snapshot; a request takes its share of the source's weight budget."""
        self._venue = settings.venue
        self._source = source
        self._symbols = symbols
        self._put = put
        self._machine = machine
        self._first_pause_s = first_pause_s
        self._limit = settings.depth_snapshot_levels or self._venue.weights.max_depth
        self._interval_s = settings.depth_snapshot_interval_s
        self._chains: dict[str, _Chain] = {}
        self._last_ids: dict[str, int] = {}  # of each symbol's last snapshot

    def follow(self, update: DepthUpdateEvent) -> None:
        """Take a symbol's next update in the order of arrival."""
        chain = self._chains.get(update.symbol)
        first_id = update.first_update_id if update.previous_update_id is None else update.previous_update_id + 1
        if chain is None:
            self._chains[update.symbol] = self._new_chain(first_id - 1, update.final_update_id)
        elif update.final_update_id <= chain.last_id:
            return  # from another connection
        elif first_id == chain.last_id + 1:
            chain.last_id = update.final_update_id
        else:
            log.warning(
                "depth_chain_broken",
                exchange=self._venue.exchange,
                symbol=update.symbol,
                after_id=chain.last_id,
                before_id=update.first_update_id,
            )
            self._chains[update.symbol] = self._new_chain(first_id - 1, update.final_update_id)

    def _new_chain(self, first_id: int, last_id: int) -> _Chain:
        return _Chain(first_id, last_id, due_at=loop_time(), pause_s=self._first_pause_s)

    async def run(self) -> None:
        """Request snapshots until cancelled, one at a time."""
        while True:
            tracked = set(self._symbols())
            self._chains = {symbol: chain for symbol, chain in self._chains.items() if symbol in tracked}
            due = min(self._chains.items(), key=lambda item: item[1].due_at, default=None)
            if due is None or due[1].due_at > loop_time():
                await asyncio.sleep(POLL_S)
            else:
                await self._request(*due)

    async def _request(self, symbol: str, chain: _Chain) -> None:
        try:
            body = await self._source.depth(symbol, self._limit)
        except (ExchangeError, UnknownSymbolError) as error:  # an unknown symbol was delisted
            log.warning("depth_snapshot_failed", symbol=symbol, error=str(error), retry_in_s=chain.pause_s)
            self._pause(chain)
            return
        received_at_us = self._machine.wall_ns() // 1000
        event = parse_snapshot(body, symbol, self._venue.exchange, received_at_us)
        received = ReceivedSnapshot(symbol, body, received_at_us, event)
        if isinstance(event, RejectedFrame):
            log.warning("depth_snapshot_rejected", symbol=symbol, reason=event.reason, retry_in_s=chain.pause_s)
            await self._put(received)
            self._pause(chain)
            return
        if self._last_ids.get(symbol) != event.last_update_id:
            await self._put(received)
            self._last_ids[symbol] = event.last_update_id
        joins = event.last_update_id >= chain.first_id
        log.info("depth_snapshot_fetched", symbol=symbol, last_id=event.last_update_id, joins=joins)
        if joins:
            chain.due_at, chain.pause_s = loop_time() + self._interval_s, self._first_pause_s
        else:
            self._pause(chain)

    def _pause(self, chain: _Chain) -> None:
        chain.due_at = loop_time() + chain.pause_s
        chain.pause_s = min(MAX_PAUSE_S, 2 * chain.pause_s)
