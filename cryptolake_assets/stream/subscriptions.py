"""What to subscribe to, held against what the exchange lists; waits for an exchange that does not answer yet."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.exchange.rest import AsyncExchangeRest
from cryptolake_assets.exchange.universe import Subscriptions, resolve_subscriptions
from cryptolake_assets.settings import Settings, Source

log = structlog.get_logger(__name__)

_RETRY_S: Final = 2.0


async def find_subscriptions(settings: Settings, rest: AsyncExchangeRest) -> Subscriptions:
    """The subscriptions that the settings ask for. Raises what `resolve_subscriptions` does."""
    while True:
        try:
            listed = (await rest.exchange_info()).symbol_names if settings.source is Source.BINANCE else None
            return await asyncio.to_thread(resolve_subscriptions, settings, listed_symbols=listed)
        except ExchangeError as error:
            log.warning("exchange_not_reachable", error=str(error), retry_in_s=_RETRY_S)
            await asyncio.sleep(_RETRY_S)
