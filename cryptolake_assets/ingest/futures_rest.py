"""Base of the futures exchange's batch sources: address, limits, one endpoint per symbol. Pure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.ingest.batch_source import BatchSource, Plan, RequestScope, StoredKeys
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.model.windows import EPOCH
from cryptolake_assets.quality.batch_checks import symbols_behind

if TYPE_CHECKING:
    from cryptolake_assets.quality.candidate_checks import CheckOutcome
    from cryptolake_assets.settings import Settings


MAX_REQUESTS = 1_000  # per run: about 17 minutes at 60 requests per minute; the next runs continue a long history


class FuturesRest(BatchSource):
    """Base of the USD-M futures exchange's sources: public market data, without a key."""

    by_symbol = True
    exchange = USD_M.exchange
    max_age: timedelta  # a check warns if a symbol's newest row is older

    def settings_of(self, settings: Settings) -> Settings:
        return settings.of_market(USD_M.market)

    def base_url(self, settings: Settings) -> str:
        return self.settings_of(settings).rest_url

    def calls_a_minute(self, settings: Settings) -> int:
        return settings.futures_calls_a_minute

    def is_available(self, settings: Settings) -> bool:
        return USD_M.market in settings.tracked_markets and super().is_available(settings)

    def plan(self, _settings: Settings, scope: RequestScope) -> Plan:
        # Known symbols first, so that they do not wait for the full history of a new symbol.
        symbols = sorted(scope.symbols, key=lambda symbol: symbol not in scope.newest)
        return bounded(self.requests(scope.newest, scope.start, scope.clock, tuple(symbols)), MAX_REQUESTS)

    @abstractmethod
    def requests(
        self, newest: Mapping[str, datetime], day_start: datetime, clock: datetime, symbols: tuple[str, ...]
    ) -> Plan:
        """Return all requests for the symbols, from the newest stored row or from `day_start`, whichever is earlier."""

    @abstractmethod
    def check_gaps(self, stored: StoredKeys) -> CheckOutcome:
        """Check for missing rows between the stored ones."""

    def warnings(self, stored: StoredKeys, scope: RequestScope) -> list[CheckOutcome]:
        return [self.check_gaps(stored), symbols_behind(stored, scope.symbols, scope.clock, self.max_age)]


def bounded(plan: Plan, limit: int) -> Plan:
    """Yield at most `limit` of the plan's requests; the next run continues from there."""
    request = next(plan, None)
    for _ in range(limit):
        if request is None:
            return
        parsed = yield request
        try:
            request = plan.send(parsed)
        except StopIteration:
            return


def endpoint_of(path: str, symbol: str) -> str:
    """Return a request's endpoint name in Bronze: the last part of the path, and the symbol."""
    return f"{path.rpartition('/')[2]}/{symbol}"


def symbol_of(endpoint: str) -> str:
    return endpoint.partition("/")[2]


def epoch_ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)
