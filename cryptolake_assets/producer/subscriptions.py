"""Resolves subscriptions against the exchange's listing, at the start and while the producer runs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import structlog

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.captures.tracked_symbols import Listing, Subscriptions, resolve_subscriptions
from cryptolake_assets.errors import CryptolakeError, ExchangeError
from cryptolake_assets.model.symbol_selection import SymbolSelection, parse_selection
from cryptolake_assets.producer.connection_pool import ConnectionPool
from cryptolake_assets.producer.machine import loop_time
from cryptolake_assets.settings import Settings, Source

log = structlog.get_logger(__name__)

_RETRY_S: Final = 2.0
_POLL_S: Final = 1.0


async def find_subscriptions(
    settings: Settings, rest: AsyncExchangeRest, tracked: Collection[str] = ()
) -> Subscriptions:
    """Return the subscriptions of the settings; wait while the exchange is unreachable.

    Raises what `resolve_subscriptions` raises.
    """
    while True:
        try:
            listing = await _listing(settings, parse_selection(settings.symbol_items), rest)
            return await asyncio.to_thread(resolve_subscriptions, settings, listing=listing, tracked=tracked)
        except ExchangeError as error:
            log.warning("exchange_unreachable", error=str(error), retry_in_s=_RETRY_S)
            await asyncio.sleep(_RETRY_S)


async def _listing(settings: Settings, selection: SymbolSelection, rest: AsyncExchangeRest) -> Listing | None:
    if settings.source is Source.REPLAY and not selection.needs_listing:
        return None
    symbols = (await rest.exchange_info()).symbols
    return Listing(symbols, await rest.volumes() if selection.busiest else {})


async def refresh_symbols(
    settings: Settings, items: tuple[str, ...], rest: AsyncExchangeRest, pool: ConnectionPool
) -> None:
    """Update the pool's tracked symbols when the symbols file changes, and periodically if they depend on the listing.

    A selection that cannot be read or resolved changes nothing. `items` is the pool's initial selection.
    """
    checked_at, last_error = loop_time(), ""
    while True:
        await asyncio.sleep(_POLL_S)
        try:
            found = await asyncio.to_thread(lambda: settings.symbol_items)
            is_due = loop_time() - checked_at >= settings.symbols_refresh_s
            if found != items or (is_due and parse_selection(items).needs_listing):
                items, checked_at = found, loop_time()
                pool.track((await find_subscriptions(settings, rest, pool.symbols)).symbols)
            last_error = ""
        except CryptolakeError as error:
            if last_error != (last_error := str(error)):
                log.error("symbol_refresh_rejected", error=last_error)
