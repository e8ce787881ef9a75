"""Typed rows of klines, trades and aggregates; decimals remain the exchange's own strings."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

TradeStreamName = Literal["trade", "aggTrade"]
TRADE_STREAMS: tuple[TradeStreamName, ...] = ("trade", "aggTrade")  # their ids are different sequences

# Header of a kline file in the public archive.
KLINE_HEADER = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)


@dataclass(frozen=True, slots=True)
class Kline:
    """One official bar. Times are epoch milliseconds (UTC); decimals are the exchange's own strings."""

    open_time_ms: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    close_time_ms: int
    quote_volume: str
    trades: int
    taker_buy_volume: str
    taker_buy_quote_volume: str

    def to_rest(self) -> list[Any]:
        """Return the row in the layout of REST's `klines` (12 values, the last one unused)."""
        return [
            self.open_time_ms,
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
            self.close_time_ms,
            self.quote_volume,
            self.trades,
            self.taker_buy_volume,
            self.taker_buy_quote_volume,
            "0",
        ]


@dataclass(frozen=True, slots=True)
class AggTrade:
    """One aggregate trade. `transact_time_ms` is epoch milliseconds (UTC); decimals are the exchange's own strings."""

    agg_trade_id: int
    price: str
    qty: str
    first_trade_id: int
    last_trade_id: int
    transact_time_ms: int
    is_buyer_maker: bool

    def to_rest(self) -> dict[str, Any]:
        """Return the row in the layout of REST's `aggTrades`."""
        return {
            "a": self.agg_trade_id,
            "p": self.price,
            "q": self.qty,
            "f": self.first_trade_id,
            "l": self.last_trade_id,
            "T": self.transact_time_ms,
            "m": self.is_buyer_maker,
        }


@dataclass(frozen=True, slots=True)
class HistoricalTrade:
    """One trade of the order book. `time_ms` is epoch milliseconds (UTC); decimals are the exchange's own strings."""

    trade_id: int
    price: str
    qty: str
    time_ms: int
    is_buyer_maker: bool

    def to_rest(self) -> dict[str, Any]:
        """Return the row in the layout of REST's `historicalTrades`, without `isRPITrade`, which frames do not have."""
        return {
            "id": self.trade_id,
            "price": self.price,
            "qty": self.qty,
            "quoteQty": format(Decimal(self.price) * Decimal(self.qty), "f"),
            "time": self.time_ms,
            "isBuyerMaker": self.is_buyer_maker,
        }


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """A malformed row in a page of trades. It keeps its position, because pagination counts rows."""

    row_id: int | None  # if readable
    raw: bytes  # JSON of the row
