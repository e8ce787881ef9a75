"""What the exchange's REST interface answers, as typed values; decimals stay the exchange's own strings."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, TypeVar

import msgspec
import structlog

from cryptolake_assets.errors import AnswerShapeError, ExchangeError
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, Kline

log = structlog.get_logger(__name__)

T = TypeVar("T")


class SymbolInfo(msgspec.Struct, frozen=True, rename="camel"):
    """One listed symbol; fields of the answer that nobody here needs are left out."""

    symbol: str
    status: str = ""
    contract_status: str = ""
    """What COIN-M calls the status; `parse_exchange_info` makes it the status."""
    contract_type: str = ""
    base_asset: str = ""
    quote_asset: str = ""


@dataclass(frozen=True)
class ExchangeInfo:
    """The answer of `exchangeInfo`; `server_time` is epoch milliseconds."""

    symbols: tuple[SymbolInfo, ...]
    server_time: int = 0

    @property
    def symbol_names(self) -> tuple[str, ...]:
        return tuple(entry.symbol for entry in self.symbols)


class _ExchangeInfoAnswer(msgspec.Struct, rename="camel"):
    symbols: list[msgspec.Raw]
    server_time: int = 0


class _Ticker(msgspec.Struct, rename="camel"):
    symbol: str
    quote_volume: Decimal = Decimal(0)


class _ServerTime(msgspec.Struct, rename="camel"):
    server_time: int


class _AggTradeRow(msgspec.Struct):
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - the exchange's own name
    T: int
    m: bool


class _HistoricalTradeRow(msgspec.Struct, rename="camel"):
    id: int
    price: str
    qty: str
    time: int
    is_buyer_maker: bool


_Number = Annotated[str, msgspec.Meta(pattern=r"\A-?[0-9]+(?:\.[0-9]+)?\Z")]


class _KlineRow(msgspec.Struct, array_like=True):
    """As `Kline`; what follows is unused."""

    open_time_ms: int
    open: _Number
    high: _Number
    low: _Number
    close: _Number
    volume: _Number
    close_time_ms: int
    quote_volume: _Number
    trades: int
    taker_buy_volume: _Number
    taker_buy_quote_volume: _Number


def parse_time_ms(body: bytes) -> int:
    return _parse(body, _ServerTime, "time").server_time


def parse_exchange_info(body: bytes) -> ExchangeInfo:
    answer = _parse(body, _ExchangeInfoAnswer, "exchangeInfo")
    symbols = [
        msgspec.structs.replace(entry, status=entry.status or entry.contract_status)
        for entry in _sound_rows(answer.symbols, SymbolInfo, "exchangeInfo")
    ]
    return ExchangeInfo(tuple(symbols), answer.server_time)


def parse_volumes(body: bytes) -> dict[str, Decimal]:
    """Return the quote volumes of 24 hours by symbol."""
    rows = _parse(body, list[msgspec.Raw], "ticker/24hr")
    tickers = _sound_rows(rows, _Ticker, "ticker/24hr")
    return {ticker.symbol: ticker.quote_volume for ticker in tickers if ticker.quote_volume.is_finite()}


def parse_klines(body: bytes) -> list[Kline]:
    rows = _parse(body, list[msgspec.Raw], "klines")
    return [Kline(*msgspec.structs.astuple(row)) for row in _sound_rows(rows, _KlineRow, "klines")]


def parse_agg_trades(body: bytes) -> list[AggTrade]:
    rows = _parse(body, list[_AggTradeRow], "aggTrades")
    return [AggTrade(row.a, row.p, row.q, row.f, row.l, row.T, row.m) for row in rows]


def parse_historical_trades(body: bytes) -> list[HistoricalTrade]:
    rows = _parse(body, list[_HistoricalTradeRow], "historicalTrades")
    return [HistoricalTrade(row.id, row.price, row.qty, row.time, row.is_buyer_maker) for row in rows]


def _parse(body: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise ExchangeError(_other_shape(what, f"{error}; it starts {body[:80]!r}")) from error


def _other_shape(what: str, cause: str) -> str:
    return (
        f"exchange: the answer of {what} is not in the known shape ({cause}). "
        "Check that the REST URL is the exchange's (CRYPTOLAKE_EXCHANGE_REST_URL)."
    )


def _sound_rows(rows: list[msgspec.Raw], kind: type[T], what: str) -> list[T]:
    """Return the rows of an answer; an odd one is logged with its reason and holds no other back.

    Raises `AnswerShapeError` when all of them are odd: the answer is of another shape.
    """
    found: list[T] = []
    odd: list[str] = []
    for row in rows:
        try:
            found.append(msgspec.json.decode(row, type=kind))
        except msgspec.MsgspecError as error:
            odd.append(f"{error}: {bytes(row)[:80]!r}")
    if odd and not found:
        raise AnswerShapeError(_other_shape(what, odd[0]))
    if odd:
        log.warning("exchange_rows_left_out", answer=what, rows=len(odd), first=odd[:5])
    return found
