"""One request-weight budget for all REST clients of a process that share an IP address.

The exchange counts weight per IP address and minute and reports the total in each response (`X-MBX-USED-WEIGHT-1M`),
including other processes' requests. It bans clients that keep sending after a 429 (status 418), so no request is sent
during a requested pause (`Retry-After`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cryptolake_assets.errors import ExchangeError

log = structlog.get_logger(__name__)

LIMIT_PER_MINUTE: Final = 2_400  # USD-M futures REST limit (`rateLimits` of exchangeInfo)
_MINUTE_S: Final = 60.0


class WeightBudget:
    """The remaining weight of the current minute, and the end of a pause requested by the exchange."""

    def __init__(
        self,
        share: float = 0.5,
        limit: int = LIMIT_PER_MINUTE,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Let non-urgent requests use a `share` of the `limit`; `now` returns seconds since 1970."""
        self._allowed = share * limit
        self._now = now
        self._sleep = sleep
        self._minute = -1
        self._used = 0
        self._in_flight = 0
        self._blocked_until = 0.0

    @property
    def blocked_s(self) -> float:
        """Seconds left of the pause that the exchange requested."""
        return max(0.0, self._blocked_until - self._now())

    async def take(self, weight: int, patience_s: float, *, urgent: bool = False) -> None:
        """Wait until a request of this weight may be sent, and count it.

        An `urgent` request waits only for a pause requested by the exchange. Raises `ExchangeError` if that pause is
        longer than `patience_s`.
        """
        while True:
            if self.blocked_s > patience_s:
                raise ExchangeError(
                    f"exchange: requests are paused for another {self.blocked_s:.0f} s (status 429 or 418). Wait; "
                    "earlier requests extend the ban."
                )
            if self.blocked_s > 0:
                await self._sleep(self.blocked_s)
                continue
            self._begin_minute()
            if urgent or not self._used or self._used + weight <= self._allowed:
                self._used += weight
                self._in_flight += weight
                return
            await self._sleep(_MINUTE_S - self._now() % _MINUTE_S)

    def finish(self, weight: int, used: str | None = None) -> None:
        """Record the end of a request; `used` is the exchange's total for this minute."""
        self._in_flight -= weight
        if used is not None and used.isascii() and used.isdigit():
            self._begin_minute()
            self._used = int(used) + self._in_flight

    def block(self, seconds: float) -> None:
        """Record a pause requested by the exchange."""
        self._blocked_until = max(self._blocked_until, self._now() + seconds)
        log.warning("exchange_throttled", pause_s=round(seconds, 1))

    def _begin_minute(self) -> None:
        minute = int(self._now() // _MINUTE_S)
        if minute != self._minute:
            self._minute, self._used = minute, self._in_flight
