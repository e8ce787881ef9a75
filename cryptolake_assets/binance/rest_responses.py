"""Parse REST responses of the exchange into typed values; decimals stay the exchange's own strings."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, TypeVar

import msgspec
import structlog

from cryptolake_assets.errors import ExchangeError, ResponseShapeError
from cryptolake_assets.model.events import MAX_ID
from cryptolake_assets.model.exchange_records import AggTrade, HistoricalTrade, Kline, MalformedRow
from cryptolake_assets.model.symbols import is_symbol

log = structlog.get_logger(__name__)

T = TypeVar("T")
N = TypeVar("N", "SymbolInfo", "_Ticker")


class SymbolInfo(msgspec.Struct, frozen=True, rename="camel"):
    """One listed symbol, with the fields that the project uses."""

    symbol: str
    status: str = ""
    contract_status: str = ""  # COIN-M's name for the status; `parse_exchange_info` copies it to `status`
    quote_asset: str = ""


@dataclass(frozen=True)
class ExchangeInfo:
    """The response of `exchangeInfo`; `server_time` is epoch milliseconds."""

    symbols: tuple[SymbolInfo, ...]
    server_time: int = 0

    @property
    def symbol_names(self) -> tuple[str, ...]:
        return tuple(entry.symbol for entry in self.symbols)


class _ExchangeInfoResponse(msgspec.Struct, rename="camel"):
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


_Page = list[msgspec.Raw]
_Number = Annotated[str, msgspec.Meta(pattern=r"\A-?[0-9]+(?:\.[0-9]+)?\Z")]


class _KlineRow(msgspec.Struct, array_like=True):
    """A row with the fields of `Kline`; a trailing unused value is ignored."""

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
    response = _parse(body, _ExchangeInfoResponse, "exchangeInfo")
    symbols = [
        msgspec.structs.replace(entry, status=entry.status or entry.contract_status)
        for entry in _valid_rows(response.symbols, SymbolInfo, "exchangeInfo")
    ]
    return ExchangeInfo(tuple(_with_symbols(symbols, "exchangeInfo")), response.server_time)


def parse_volumes(body: bytes) -> dict[str, Decimal]:
    """Return 24-hour quote volumes by symbol."""
    rows = _parse(body, _Page, "ticker/24hr")
    tickers = _with_symbols(_valid_rows(rows, _Ticker, "ticker/24hr"), "ticker/24hr")
    return {ticker.symbol: ticker.quote_volume for ticker in tickers if ticker.quote_volume.is_finite()}


def parse_klines(body: bytes) -> list[Kline]:
    rows = _parse(body, _Page, "klines")
    return [Kline(*msgspec.structs.astuple(row)) for row in _valid_rows(rows, _KlineRow, "klines")]


def parse_agg_trades(body: bytes) -> list[AggTrade | MalformedRow]:
    return [
        row if isinstance(row, MalformedRow) else AggTrade(row.a, row.p, row.q, row.f, row.l, row.T, row.m)
        for row in _rows(_parse(body, _Page, "aggTrades"), _AggTradeRow, "aggTrades", "a")
    ]


def parse_historical_trades(body: bytes) -> list[HistoricalTrade | MalformedRow]:
    return [
        row
        if isinstance(row, MalformedRow)
        else HistoricalTrade(row.id, row.price, row.qty, row.time, row.is_buyer_maker)
        for row in _rows(_parse(body, _Page, "historicalTrades"), _HistoricalTradeRow, "historicalTrades", "id")
    ]


def _parse(body: bytes, kind: type[T], endpoint: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise ExchangeError(_format_error_text(endpoint, f"{error}; it starts {body[:80]!r}")) from error


def _format_error_text(endpoint: str, cause: str) -> str:
    return (
        f"exchange: the response of {endpoint} has an unknown format ({cause}). "
        "Check that CRYPTOLAKE_EXCHANGE_REST_URL is the exchange's REST address."
    )


def _valid_rows(rows: list[msgspec.Raw], kind: type[T], endpoint: str) -> list[T]:
    """Return the valid rows of a response."""
    return [row for row in _rows(rows, kind, endpoint) if not isinstance(row, MalformedRow)]


def _with_symbols(rows: list[N], endpoint: str) -> list[N]:
    """Return the rows with a valid symbol; log and drop the others, so that no pattern selects them."""
    invalid = [row.symbol for row in rows if not is_symbol(row.symbol)]
    if invalid:
        log.warning(
            "exchange_rows_rejected",
            endpoint=endpoint,
            rows=len(invalid),
            first=[f"invalid symbol: {name[:80]!r}" for name in invalid[:5]],
        )
    return [row for row in rows if is_symbol(row.symbol)]


def _rows(rows: list[msgspec.Raw], kind: type[T], endpoint: str, id_name: str = "") -> list[T | MalformedRow]:
    """Return all rows of a response in order; an invalid row becomes a `MalformedRow` and is logged.

    Raises `ResponseShapeError` if all rows are invalid and none has an id: the response has another format.
    """
    found: list[T | MalformedRow] = []
    reasons: list[str] = []
    for raw in rows:
        try:
            found.append(msgspec.json.decode(raw, type=kind))
        except msgspec.MsgspecError as error:
            found.append(MalformedRow(_id_in(raw, id_name), bytes(raw)))
            reasons.append(f"{error}: {bytes(raw)[:80]!r}")
    if reasons and all(isinstance(row, MalformedRow) and row.row_id is None for row in found):
        raise ResponseShapeError(_format_error_text(endpoint, reasons[0]))
    if reasons:
        log.warning("exchange_rows_rejected", endpoint=endpoint, rows=len(reasons), first=reasons[:5])
    return found


def _id_in(row: msgspec.Raw, name: str) -> int | None:
    try:
        found = msgspec.json.decode(msgspec.json.decode(row, type=dict[str, msgspec.Raw])[name], type=int)
    except (KeyError, msgspec.MsgspecError):
        return None
    return found if 0 <= found <= MAX_ID else None
