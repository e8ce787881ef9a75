"""A REST client that also requests aggregate trades by ids and by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptolake_assets.binance.rest import AGG_TRADES_PAGE, ExchangeRest, agg_trades_request
from cryptolake_assets.binance.rest_responses import parse_agg_trades
from cryptolake_assets.model.exchange_records import AggTrade, MalformedRow


class AggregatesRest(ExchangeRest):
    """`ExchangeRest` with pages of aggregate trades; missing ids and malformed rows are skipped."""

    def agg_trades(self, symbol: str, first_id: int, last_id: int) -> list[AggTrade]:
        """Return the aggregate trades with ids in [first_id, last_id], ascending."""
        found: list[AggTrade] = []
        while first_id <= last_id:
            page = self._page(symbol, fromId=first_id)
            found += [row for row in _aggregates(page) if row.agg_trade_id <= last_id]
            if len(page) < AGG_TRADES_PAGE:
                break
            first_id = _next_id(page)
        return found

    def agg_trades_between(self, symbol: str, start_ms: int, end_ms: int) -> Iterator[AggTrade]:
        """Return the aggregate trades whose time is in [start_ms, end_ms], ascending."""
        while start_ms <= end_ms:
            window_ms = self._venue.agg_trades_window_ms
            window_end_ms = end_ms if window_ms is None else min(end_ms, start_ms + window_ms - 1)
            page = self._page(symbol, startTime=start_ms, endTime=window_end_ms)
            yield from _aggregates(page)
            while len(page) == AGG_TRADES_PAGE:
                # A millisecond can hold more trades than a page, so continue by id.
                page = self._page(symbol, fromId=_next_id(page))
                rows = _aggregates(page)
                inside = [row for row in rows if row.transact_time_ms <= window_end_ms]
                yield from inside
                if len(inside) < len(rows):
                    break
            start_ms = window_end_ms + 1

    def _page(self, symbol: str, **window: int) -> Sequence[AggTrade | MalformedRow]:
        return parse_agg_trades(self._body(agg_trades_request(self._venue, symbol, **window)))


def _aggregates(page: Sequence[AggTrade | MalformedRow]) -> list[AggTrade]:
    return [row for row in page if isinstance(row, AggTrade)]


def _next_id(page: Sequence[AggTrade | MalformedRow]) -> int:
    """Return the id after the last one of a page, of which `parse_agg_trades` found one at least."""
    return 1 + max(
        row.agg_trade_id if isinstance(row, AggTrade) else -1 if row.row_id is None else row.row_id for row in page
    )
