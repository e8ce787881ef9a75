"""The exchange's REST history of a trade stream, by id, as the frames that the stream would have sent.

Aggregates (`aggTrades`) are public. Single trades (`historicalTrades`) require an API key, and cover only the order
book.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from cryptolake_assets.binance.rest import AGG_TRADES_PAGE, HISTORICAL_TRADES_PAGE
from cryptolake_assets.lake.gap_ledger import OpenBecause
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, MalformedRow
from cryptolake_assets.settings import TradeStream


class TradeHistory(Protocol):
    """The exchange's REST history of both trade streams."""

    @property
    def has_key(self) -> bool:
        """Return whether an API key for single trades is set."""

    async def agg_trades_from(self, symbol: str, first_id: int) -> Sequence[AggTrade | MalformedRow]:
        """Return a page of aggregates from `first_id`, ascending, malformed rows in place. Raises `ExchangeError`."""

    async def historical_trades_from(self, symbol: str, first_id: int) -> Sequence[HistoricalTrade | MalformedRow]:
        """Return the same for single trades of the order book."""


@dataclass(frozen=True, slots=True)
class FetchedTrade:
    """A row of the history: its id, its time (ms since 1970, UTC) and its frame.

    A malformed row has no time, and perhaps no id; the contract rejects its frame.
    """

    trade_id: int | None
    time_ms: int | None
    frame: bytes


class StreamHistory:
    """The REST history of one stream."""

    def __init__(self, history: TradeHistory, stream: str, *, has_history: bool = True) -> None:
        """`has_history`: the venue has a history that can be requested by id."""
        self._history = history
        self._has_history = has_history
        self._of_aggregates = stream == TradeStream.AGG_TRADE.value

    @property
    def unavailable_because(self) -> OpenBecause | None:
        """Return why the history cannot be requested; None if it can."""
        if not self._has_history:
            return OpenBecause.NO_HISTORY
        return None if self._of_aggregates or self._history.has_key else OpenBecause.NEEDS_KEY

    @property
    def is_gapless(self) -> bool:
        """Return whether the history has every id; that of single trades lacks ids outside the order book."""
        return self._of_aggregates

    @property
    def page_size(self) -> int:
        """Rows of a full page; more may follow it."""
        return AGG_TRADES_PAGE if self._of_aggregates else HISTORICAL_TRADES_PAGE

    async def page(self, symbol: str, first_id: int) -> list[FetchedTrade]:
        """Return rows from `first_id`, ascending; empty if none exist (yet). Raises `ExchangeError`."""
        if self._of_aggregates:
            return [
                _malformed(symbol, row, "aggTrade", _AGGREGATE_NAMES)
                if isinstance(row, MalformedRow)
                else FetchedTrade(row.agg_trade_id, row.transact_time_ms, agg_trade_frame(symbol, row))
                for row in await self._history.agg_trades_from(symbol, first_id)
            ]
        return [
            _malformed(symbol, row, "trade", _TRADE_NAMES)
            if isinstance(row, MalformedRow)
            else FetchedTrade(row.trade_id, row.time_ms, trade_frame(symbol, row))
            for row in await self._history.historical_trades_from(symbol, first_id)
        ]


# Field names of the stream to those of REST.
_AGGREGATE_NAMES: Final = {"E": "T", "a": "a", "p": "p", "q": "q", "f": "f", "l": "l", "T": "T", "m": "m"}
_TRADE_NAMES: Final = {"E": "time", "T": "time", "t": "id", "p": "price", "q": "qty", "m": "isBuyerMaker"}


def _malformed(symbol: str, row: MalformedRow, kind: str, names: Mapping[str, str]) -> FetchedTrade:
    """Return a malformed row with the stream's field names; its values stay unchanged."""
    data: dict[str, Any] = {"e": kind, "s": symbol}
    if row.row_id is not None:
        values = msgspec.json.decode(row.raw, type=dict[str, msgspec.Raw])
        data |= {stream_name: values[rest_name] for stream_name, rest_name in names.items() if rest_name in values}
    return FetchedTrade(row.row_id, None, msgspec.json.encode(data))


def agg_trade_frame(symbol: str, row: AggTrade) -> bytes:
    """Return a REST aggregate as the stream sends it; its trade time also serves as its send time."""
    data: dict[str, Any] = {"e": "aggTrade", "E": row.transact_time_ms, "s": symbol, "a": row.agg_trade_id}
    data |= {"p": row.price, "q": row.qty, "f": row.first_trade_id, "l": row.last_trade_id}
    return msgspec.json.encode(data | {"T": row.transact_time_ms, "m": row.is_buyer_maker})


def trade_frame(symbol: str, row: HistoricalTrade) -> bytes:
    """Return a REST single trade as the stream sends it; always of type `MARKET`: the history is the order book's."""
    data: dict[str, Any] = {"e": "trade", "E": row.time_ms, "T": row.time_ms, "s": symbol, "t": row.trade_id}
    return msgspec.json.encode(data | {"p": row.price, "q": row.qty, "X": "MARKET", "m": row.is_buyer_maker})
