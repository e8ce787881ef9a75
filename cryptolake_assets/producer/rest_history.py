"""The exchange's history of a trade stream, by id: its rows as the frames that the stream would have sent.

Aggregates (`aggTrades`) are told to everybody. Single trades (`historicalTrades`) are told to holders of a key, and
those of the order book only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from cryptolake_assets.binance.rest import AGG_TRADES_PAGE, HISTORICAL_TRADES_PAGE
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, OddRow
from cryptolake_assets.settings import TradeStream


class TradeHistory(Protocol):
    """The exchange's REST history of both streams."""

    @property
    def has_key(self) -> bool:
        """Whether single trades can be asked for."""

    async def agg_trades_from(self, symbol: str, first_id: int) -> Sequence[AggTrade | OddRow]:
        """A page of aggregates from `first_id` on, ascending, odd rows in their places. Raises `ExchangeError`."""

    async def historical_trades_from(self, symbol: str, first_id: int) -> Sequence[HistoricalTrade | OddRow]:
        """The same of single trades of the order book."""


@dataclass(frozen=True, slots=True)
class FetchedTrade:
    """A row of the history: its id, when it happened (ms since 1970, UTC), and its frame.

    An odd row has no time, and perhaps no id; the contract rejects its frame."""

    trade_id: int | None
    time_ms: int | None
    frame: bytes


class StreamHistory:
    """The history of one stream."""

    def __init__(self, history: TradeHistory, stream: str) -> None:
        self._history = history
        self._of_aggregates = stream == TradeStream.AGG_TRADE.value

    @property
    def can_be_asked(self) -> bool:
        return self._of_aggregates or self._history.has_key

    @property
    def is_gapless(self) -> bool:
        """Whether the exchange has every id: of single trades it does not tell those outside of the order book."""
        return self._of_aggregates

    @property
    def page_size(self) -> int:
        """Rows of a page behind which there may be more."""
        return AGG_TRADES_PAGE if self._of_aggregates else HISTORICAL_TRADES_PAGE

    async def page(self, symbol: str, first_id: int) -> list[FetchedTrade]:
        """Rows from `first_id` on, ascending; empty when there are none (yet). Raises `ExchangeError`."""
        if self._of_aggregates:
            return [
                _odd(symbol, row, "aggTrade", _AGGREGATE_NAMES)
                if isinstance(row, OddRow)
                else FetchedTrade(row.agg_trade_id, row.transact_time_ms, agg_trade_frame(symbol, row))
                for row in await self._history.agg_trades_from(symbol, first_id)
            ]
        return [
            _odd(symbol, row, "trade", _TRADE_NAMES)
            if isinstance(row, OddRow)
            else FetchedTrade(row.trade_id, row.time_ms, trade_frame(symbol, row))
            for row in await self._history.historical_trades_from(symbol, first_id)
        ]


_AGGREGATE_NAMES: Final = {"E": "T", "a": "a", "p": "p", "q": "q", "f": "f", "l": "l", "T": "T", "m": "m"}
_TRADE_NAMES: Final = {"E": "time", "T": "time", "t": "id", "p": "price", "q": "qty", "m": "isBuyerMaker"}
"""The stream's names of a row's values, and REST's."""


def _odd(symbol: str, row: OddRow, kind: str, names: Mapping[str, str]) -> FetchedTrade:
    """An odd row under the stream's names; its values stay as they were written."""
    data: dict[str, Any] = {"e": kind, "s": symbol}
    if row.row_id is not None:
        values = msgspec.json.decode(row.raw, type=dict[str, msgspec.Raw])
        data |= {ours: values[theirs] for ours, theirs in names.items() if theirs in values}
    return FetchedTrade(row.row_id, None, msgspec.json.encode(data))


def agg_trade_frame(symbol: str, row: AggTrade) -> bytes:
    """An aggregate of REST as the stream sends it; its trade time stands for when it was sent."""
    data: dict[str, Any] = {"e": "aggTrade", "E": row.transact_time_ms, "s": symbol, "a": row.agg_trade_id}
    data |= {"p": row.price, "q": row.qty, "f": row.first_trade_id, "l": row.last_trade_id}
    return msgspec.json.encode(data | {"T": row.transact_time_ms, "m": row.is_buyer_maker})


def trade_frame(symbol: str, row: HistoricalTrade) -> bytes:
    """The same of a single trade: the history holds trades of the order book only, so its type is `MARKET`."""
    data: dict[str, Any] = {"e": "trade", "E": row.time_ms, "T": row.time_ms, "s": symbol, "t": row.trade_id}
    return msgspec.json.encode(data | {"p": row.price, "q": row.qty, "X": "MARKET", "m": row.is_buyer_maker})
