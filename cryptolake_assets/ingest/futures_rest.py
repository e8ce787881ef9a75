"""Base of the futures exchange's batch sources: its address, its limits, one endpoint per symbol. Pure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.ingest.batch_source import BatchSource, Held, Plan, Wanted
from cryptolake_assets.model.markets import Market
from cryptolake_assets.quality.batch_checks import symbols_behind

if TYPE_CHECKING:
    from cryptolake_assets.quality.candidate_checks import CheckOutcome
    from cryptolake_assets.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


MAX_REQUESTS = 1_000  # Per run: a quarter of an hour at 60 calls a minute. The next runs continue a long history.


class FuturesRest(BatchSource):
    """Base of the USD-M futures exchange's sources: public market data, without a key."""

    by_symbol = True
    behind: timedelta  # a symbol whose newest row is older warns

    def base_url(self, settings: Settings) -> str:
        return settings.rest_url

    def calls_a_minute(self, settings: Settings) -> int:
        return settings.futures_calls_a_minute

    def can_be_asked(self, settings: Settings) -> bool:
        return settings.market is Market.USD_M and super().can_be_asked(settings)

    def plan(self, _settings: Settings, wanted: Wanted) -> Plan:
        # Known symbols first: they do not wait for the whole history of a new one.
        symbols = sorted(wanted.symbols, key=lambda symbol: symbol not in wanted.newest)
        return bounded(self.requests(wanted.newest, wanted.start, wanted.clock, tuple(symbols)), MAX_REQUESTS)

    @abstractmethod
    def requests(
        self, newest: Mapping[str, datetime], wanted: datetime, clock: datetime, symbols: tuple[str, ...]
    ) -> Plan:
        """Return all requests for the symbols, from the newest held row or the start of the wanted day."""

    @abstractmethod
    def missing(self, held: Held) -> CheckOutcome:
        """Check for missing rows between the held ones."""

    def warnings(self, held: Held, wanted: Wanted) -> list[CheckOutcome]:
        return [self.missing(held), symbols_behind(held, wanted.symbols, wanted.clock, self.behind)]


def bounded(plan: Plan, limit: int) -> Plan:
    """Yield at most `limit` of the plan's requests; the next run continues where this one ends."""
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
    return (moment - _EPOCH) // timedelta(milliseconds=1)
