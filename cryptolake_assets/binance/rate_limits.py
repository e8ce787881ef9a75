"""The exchange's request weight as one budget, shared by every client of a process that asks by the same address.

The exchange counts weight by address and minute and says after each answer what was used
(`X-MBX-USED-WEIGHT-1M`), also by others. Who goes on after a 429 is banned with a 418: while the exchange asks for a
pause (`Retry-After`) nothing is asked at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cryptolake_assets.errors import ExchangeError

log = structlog.get_logger(__name__)

LIMIT_A_MINUTE: Final = 2_400
"""Of the USD-M futures' REST interface (`rateLimits` of exchangeInfo)."""
_MINUTE_S: Final = 60.0


class WeightBudget:
    """What may still be asked in the present minute, and from when on anything may."""

    def __init__(
        self,
        share: float = 0.5,
        limit: int = LIMIT_A_MINUTE,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`share` of the `limit` is used by requests that can wait; `now` is in seconds since 1970."""
        self._allowed = share * limit
        self._now = now
        self._sleep = sleep
        self._minute = -1
        self._used = 0
        self._under_way = 0
        self._blocked_until = 0.0

    @property
    def blocked_s(self) -> float:
        """Seconds for which the exchange wants no request."""
        return max(0.0, self._blocked_until - self._now())

    async def take(self, weight: int, patience_s: float, *, urgent: bool = False) -> None:
        """Waits until a request of so much weight may be sent, and counts it; `urgent` ones are only held back by a
        pause that the exchange asked for. Raises `ExchangeError` when that is longer than `patience_s`."""
        while True:
            if self.blocked_s > patience_s:
                raise ExchangeError(
                    f"exchange: it wants no request for another {self.blocked_s:.0f} s (429 or 418). Wait; asking "
                    "earlier lengthens the ban."
                )
            if self.blocked_s > 0:
                await self._sleep(self.blocked_s)
                continue
            self._begin_minute()
            if urgent or not self._used or self._used + weight <= self._allowed:
                self._used += weight
                self._under_way += weight
                return
            await self._sleep(_MINUTE_S - self._now() % _MINUTE_S)

    def answered(self, weight: int, used: str | None = None) -> None:
        """Notes that a request is over; `used` is what the exchange says was used in this minute."""
        self._under_way -= weight
        if used is not None and used.isascii() and used.isdigit():
            self._begin_minute()
            self._used = int(used) + self._under_way

    def block(self, seconds: float) -> None:
        """Notes that the exchange wants no request for so long."""
        self._blocked_until = max(self._blocked_until, self._now() + seconds)
        log.warning("exchange_wants_a_pause", pause_s=round(seconds, 1))

    def _begin_minute(self) -> None:
        minute = int(self._now() // _MINUTE_S)
        if minute != self._minute:
            self._minute, self._used = minute, self._under_way
