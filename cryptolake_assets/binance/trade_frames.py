"""Parse WebSocket frames into trade events. Pure: no I/O, no clock.

`parse_frame` checks structure only: valid JSON, all fields present, correct types, values that fit their columns. It
accepts a negative price or an empty symbol; Silver quarantines those. Prices and quantities stay the exchange's own
digits: no number is rounded or reformatted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from cryptolake_assets.binance.control_frames import ControlFrame, read_control, read_text
from cryptolake_assets.model.columns import PRICE, QUANTITY, decimal_pattern
from cryptolake_assets.model.events import (
    MAX_ID,
    MAX_REASON_CHARS,
    MAX_TIME_MS,
    UNKNOWN_TRADE_TYPE,
    RejectedFrame,
    TradeEvent,
)
from cryptolake_assets.model.markets import Venue
from cryptolake_assets.model.symbols import MAX_SYMBOL_BYTES, is_symbol

_PRICE_PATTERN: Final = decimal_pattern(PRICE)
_QUANTITY_PATTERN: Final = decimal_pattern(QUANTITY)
_FULLMATCH: Final = {"price": re.compile(_PRICE_PATTERN).fullmatch, "qty": re.compile(_QUANTITY_PATTERN).fullmatch}
# One match of price and quantity joined costs 0.4 µs per frame; patterns in the decoder would cost 2 µs.
_are_decimals = re.compile(rf"{_PRICE_PATTERN}\n{_QUANTITY_PATTERN}").fullmatch
_MAX_TRADE_TYPE_CHARS: Final = 32

_TimeMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
_Id = Annotated[int, Meta(ge=0, le=MAX_ID)]
_Symbol = Annotated[str, Meta(max_length=MAX_SYMBOL_BYTES)]
_TradeType = Annotated[str, Meta(max_length=_MAX_TRADE_TYPE_CHARS)]


class AcceptedFrame(Struct, frozen=True, gc=False):
    """The trade event of an accepted frame."""

    event: TradeEvent
    exchange_time_ms: int  # `E`: when the exchange sent the frame, by its own clock


class IdWithoutTrade(Struct, frozen=True, gc=False):
    """An id without a trade, which the exchange marks with price 0, quantity 0 and trade ids -1."""

    symbol: str
    stream: Literal["trade", "aggTrade"]
    trade_id: int | None  # the aggregate's id; None if it is -1 too
    event_time: int  # µs since 1970, UTC
    exchange_time_ms: int


ParsedTrade = AcceptedFrame | IdWithoutTrade | RejectedFrame | ControlFrame


def trade_parser(venue: Venue) -> Callable[[bytes, int], ParsedTrade]:
    """Return the parser of a venue's frames, which takes a frame and its receive time in µs since 1970."""
    exchange, unnamed_trade_type = venue.exchange, venue.unnamed_trade_type

    def parse(raw: bytes, received_at_us: int) -> ParsedTrade:
        return parse_frame(raw, received_at_us, exchange, unnamed_trade_type)

    return parse


class _Trade(Struct, tag_field="e", tag="trade", gc=False):
    exchange_time_ms: _TimeMs = field(name="E")
    time_ms: _TimeMs = field(name="T")
    symbol: _Symbol = field(name="s")
    trade_id: _Id = field(name="t")
    price: str = field(name="p")
    qty: str = field(name="q")
    buyer_is_maker: bool = field(name="m")
    trade_type: _TradeType | UnsetType = field(name="X", default=UNSET)


class _AggTrade(Struct, tag_field="e", tag="aggTrade", gc=False):
    exchange_time_ms: _TimeMs = field(name="E")
    time_ms: _TimeMs = field(name="T")
    symbol: _Symbol = field(name="s")
    trade_id: _Id = field(name="a")
    price: str = field(name="p")
    qty: str = field(name="q")
    first_trade_id: _Id = field(name="f")
    last_trade_id: _Id = field(name="l")
    buyer_is_maker: bool = field(name="m")


class _Combined(Struct, gc=False):
    data: _Trade | _AggTrade


_decode_combined = msgspec.json.Decoder(_Combined).decode
_decode_bare = msgspec.json.Decoder(_Trade | _AggTrade).decode
_decode_any = msgspec.json.Decoder().decode


def parse_frame(
    raw: bytes | str, ingest_time_us: int, exchange: str, unnamed_trade_type: str = UNKNOWN_TRADE_TYPE
) -> ParsedTrade:
    """Parse a `trade` or `aggTrade` frame, a combined-stream envelope or its bare data object, into a trade event.

    `ingest_time_us` is the receive time, µs since 1970. Unknown fields are ignored. A missing trade type becomes
    `unnamed_trade_type`; aggregates are `MARKET`, because the exchange aggregates only such trades. Never raises: a
    rejected frame is returned as `RejectedFrame` with the raw bytes. The empty symbol is accepted: Silver quarantines
    it as unknown.
    """
    try:
        trade = _decode_combined(raw).data
    except (ValueError, RecursionError):
        # Bare data objects and rejected frames are rare, so decoding twice is cheap enough.
        try:
            trade = _decode_bare(raw)
        except (ValueError, RecursionError) as error:
            return _reject(raw, str(error))
    price, qty, symbol = trade.price, trade.qty, trade.symbol
    if not (_are_decimals(f"{price}\n{qty}") and (is_symbol(symbol) or not symbol)):
        return _reject(raw, "price, quantity or symbol")
    if isinstance(trade, _Trade):
        first_id = last_id = trade.trade_id
        trade_type = trade.trade_type
        if trade_type is UNSET:
            trade_type = unnamed_trade_type
        elif not _is_printable(trade_type):
            return _reject(raw, "trade type")
        stream: Literal["trade", "aggTrade"] = "trade"
    else:
        first_id, last_id = trade.first_trade_id, trade.last_trade_id
        if first_id > last_id:
            return _reject(raw, "id order")
        trade_type, stream = "MARKET", "aggTrade"
    return AcceptedFrame(
        TradeEvent(
            symbol,
            trade.time_ms * 1000,
            price,
            qty,
            "sell" if trade.buyer_is_maker else "buy",
            trade.trade_id,
            exchange,
            ingest_time_us,
            first_id,
            last_id,
            trade_type,
            stream,
        ),
        trade.exchange_time_ms,
    )


# The code below runs for rejected frames only. It finds the reason; reason codes stay stable between releases.

_FIELDS: Final[dict[str, dict[str, str]]] = {
    "trade": {
        "E": "time",
        "T": "time",
        "s": "symbol",
        "t": "id",
        "p": "price",
        "q": "qty",
        "m": "bool",
    },
    "aggTrade": {
        "E": "time",
        "T": "time",
        "s": "symbol",
        "a": "id",
        "p": "price",
        "q": "qty",
        "f": "id",
        "l": "id",
        "m": "bool",
    },
}


def _is_printable(text: str) -> bool:
    """Return whether all characters are printable ASCII; true for the empty string."""
    return text.isascii() and text.isprintable()


def _reject(raw: bytes | str, cause: str) -> IdWithoutTrade | RejectedFrame | ControlFrame:
    try:
        message = _decode_any(raw)
    except RecursionError:
        return rejected(raw, "not_json: nested too deeply")
    except msgspec.ValidationError as json_error:
        return rejected(raw, f"out_of_range: {json_error}")
    except ValueError as json_error:
        return read_text(raw) or rejected(raw, f"not_json: {json_error}")
    if control := read_control(message):
        return control
    if not isinstance(message, dict):
        return rejected(raw, f"not_an_object: the frame is of type {_type_name(message)}")
    data = message.get("data", message)
    if not isinstance(data, dict):
        return rejected(raw, f"wrong_type: data is of type {_type_name(data)}, not an object", message)
    if (problem := _structure_problem(data)) and (without_trade := _id_without_trade(data)):
        return without_trade
    return rejected(raw, problem or f"not_accepted: {cause}", message)


_ZERO: Final = re.compile(r"0(?:\.0*)?")


def _id_without_trade(data: dict[str, Any]) -> IdWithoutTrade | None:
    """Return the id if the data object marks it as an id without a trade; None otherwise."""
    marked = {name: 0 for name in ("t", "a", "f", "l") if type(data.get(name)) is int and data[name] == -1}
    kind = data.get("e")
    if not marked.keys() >= {"trade": {"t"}, "aggTrade": {"f", "l"}}.get(str(kind), {""}):
        return None
    if _structure_problem({**data, **marked}) or not data["s"]:
        return None
    if not (_ZERO.fullmatch(data["p"]) and _ZERO.fullmatch(data["q"])):
        return None
    stream: Literal["trade", "aggTrade"] = "trade" if kind == "trade" else "aggTrade"
    trade_id = data["t" if stream == "trade" else "a"]
    return IdWithoutTrade(data["s"], stream, None if trade_id == -1 else trade_id, data["T"] * 1000, data["E"])


def _structure_problem(data: dict[str, Any]) -> str | None:
    """Return the first problem of a data object, in field order; None if there is none."""
    if "e" not in data:
        return "missing_field: e"
    kind = data["e"]
    if not isinstance(kind, str):
        return f"wrong_type: e is of type {_type_name(kind)}, not a string"
    fields = _FIELDS.get(kind)
    if fields is None:
        return f"unexpected_event: {kind}"
    for name, rule in fields.items():
        if name not in data:
            return f"missing_field: {name}"
        if problem := _value_problem(name, rule, data[name]):
            return problem
    if kind == "aggTrade":
        first_id, last_id = data["f"], data["l"]
        return f"id_order: f {first_id} is greater than l {last_id}" if first_id > last_id else None
    return _value_problem("X", "trade_type", data["X"]) if "X" in data else None


def _value_problem(name: str, rule: str, value: object) -> str | None:
    if rule in ("price", "qty", "symbol", "trade_type"):
        if not isinstance(value, str):
            return f"wrong_type: {name} is of type {_type_name(value)}, not a string"
        return None if _is_text(rule, value) else f"{rule}_format: {name} is {value[: MAX_SYMBOL_BYTES + 1]!r}"
    if rule == "bool":
        return None if isinstance(value, bool) else f"wrong_type: {name} is of type {_type_name(value)}, not a boolean"
    if not isinstance(value, int) or isinstance(value, bool):
        return f"wrong_type: {name} is of type {_type_name(value)}, not an integer"
    limit = MAX_TIME_MS if rule == "time" else MAX_ID
    if not 0 <= value <= limit:
        # A JSON integer may have more digits than Python's limit for printing integers.
        shown = str(value) if abs(value) < 2**128 else "beyond 128 bits"
        return f"out_of_range: {name} is {shown}, outside 0 to {limit}"
    return None


def _is_text(rule: str, value: str) -> bool:
    if fullmatch := _FULLMATCH.get(rule):
        return fullmatch(value) is not None
    if rule == "symbol":
        return is_symbol(value) or not value
    return len(value) <= _MAX_TRADE_TYPE_CHARS and _is_printable(value)


def _type_name(value: object) -> str:
    """Return the JSON type name of a decoded value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")


def rejected(raw: bytes | str, reason: str, message: object = None) -> RejectedFrame:
    """Return the rejected frame with its reason (bounded, printable ASCII) and its symbol, stream and trade id.

    `message` is the decoded frame; without it (a truncated frame), symbol and stream are searched for in the bytes.
    """
    # A string may hold lone surrogates, which strict UTF-8 cannot encode.
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    shown = reason[:MAX_REASON_CHARS].encode("ascii", "backslashreplace").decode("ascii")
    clean = "".join(char if char.isprintable() else "?" for char in shown)[:MAX_REASON_CHARS]
    if isinstance(message, dict):
        return RejectedFrame(data, clean, *_identifiers_of(message))
    name, symbol = _STREAM_IN_BYTES.search(data), _SYMBOL_IN_BYTES.search(data)
    return RejectedFrame(data, clean, _text_of(symbol), _text_of(name))


_STREAM_IN_BYTES: Final = re.compile(rb'"stream" ?: ?"([^"\\\x00-\x1f]{1,256})"')
_SYMBOL_IN_BYTES: Final = re.compile(rb'"s" ?: ?"([^"\\\x00-\x1f]{1,64})"')


def _text_of(match: re.Match[bytes] | None) -> str | None:
    return None if match is None else match[1].decode("utf-8", "replace")


def _identifiers_of(message: dict[str, Any]) -> tuple[str | None, str | None, int | None]:
    """Return symbol, stream name and trade id of a decoded frame, each None if unreadable."""
    data = message.get("data", message)
    fields = data if isinstance(data, dict) else {}
    order = fields.get("o")  # the order of a liquidation
    symbol = fields.get("s", order.get("s") if isinstance(order, dict) else None)
    name, trade_id = message.get("stream"), fields.get("t" if fields.get("e") == "trade" else "a")
    return (
        symbol if isinstance(symbol, str) else None,
        name if isinstance(name, str) else None,
        trade_id if type(trade_id) is int and 0 <= trade_id <= MAX_ID else None,
    )
