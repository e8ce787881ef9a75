"""What the batch sources of the futures exchange share: its address, its limits, and one endpoint a symbol. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.ingest.batch_source import Plan

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FuturesRest:
    """The part of `source.BatchSource` that is the same for every such source; public market data, no key."""

    has_history = True
    by_symbol = True

    def base_url(self, settings: Settings) -> str:
        return settings.rest_url

    def headers(self, _settings: Settings) -> dict[str, str]:
        return {}

    def calls_a_minute(self, settings: Settings) -> int:
        return settings.futures_calls_a_minute


def bounded(plan: Plan, limit: int) -> Plan:
    """The plan's first requests, at most so many: the next run goes on where this one ends."""
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
    """The name in Bronze of what was asked: the last part of the path, and the symbol."""
    return f"{path.rpartition('/')[2]}/{symbol}"


def symbol_of(endpoint: str) -> str:
    return endpoint.partition("/")[2]


def epoch_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
