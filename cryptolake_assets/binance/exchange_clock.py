"""The exchange's clock, read by REST."""

from __future__ import annotations

import structlog

from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

EXCHANGE_TIMEOUT_S = 2.0


def exchange_clock_ms(settings: Settings) -> int | None:
    """Return the exchange's current time, ms since 1970; None if the exchange does not respond."""
    from cryptolake_assets.binance.rest import ExchangeRest
    from cryptolake_assets.http.http_client import RetryPolicy

    try:
        with ExchangeRest(settings.rest_url, EXCHANGE_TIMEOUT_S, RetryPolicy(attempts=2), venue=settings.venue) as rest:
            return rest.time_ms()
    except CryptolakeError as error:
        log.warning("exchange_clock_unreachable", error=str(error))
        return None
