"""Frames that an attacker or a broken exchange may send, made from the frame that they follow. Pure.

None can be taken for a trade of a tracked symbol at a valid time, so a sound client's bars and gaps stay as they are.
Bytes that are not UTF-8 are lone surrogates in the text, as by the error handler `surrogateescape`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

FAR_FUTURE_MS: Final = 4_070_908_800_000  # 2099-01-01
LARGEST_BYTES: Final = 1 << 20  # maximum size of a message that clients of the exchange accept
FAR_ID: Final = 2**62  # ids from here on are of no trade
_DEPTH: Final = 100_000
_OTHER_SYMBOL: Final = "HOSTILEUSDT"
_ID: Final = {"trade": "t", "aggTrade": "a"}

Document = dict[str, Any]


def hostile_frame(name: str, neighbour: str, number: int) -> str:
    """Return the frame of this name to send after `neighbour`; `number` tells frames of the same name apart."""
    return _FRAMES[name](_Neighbour(neighbour, number))


class _Neighbour:
    """The frame before; its stream, data and id replaced by plausible ones if it is not a trade."""

    def __init__(self, text: str, number: int) -> None:
        self.number = number
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        document = document if isinstance(document, dict) else {}
        data = document.get("data", document)
        is_trade = isinstance(data, dict) and data.get("e") in _ID
        self.data: Document = data if is_trade else _plausible()
        self.id_field = _ID[self.data["e"]]
        self.stream = document.get("stream") if is_trade else "hostileusdt@aggTrade"

    def encode(self, data: Any, stream: object = None) -> str:
        """Return a frame with this data, combined or raw like the neighbour."""
        is_combined = stream is not None or self.stream is not None
        return json.dumps({"stream": stream or self.stream, "data": data} if is_combined else data)

    def changed(self, **values: Any) -> str:
        """Return the neighbour with other values."""
        return self.encode(self.data | values)

    def without(self, name: str) -> str:
        return self.encode({key: value for key, value in self.data.items() if key != name})

    def of_other_symbol(self, symbol: str = _OTHER_SYMBOL, **values: Any) -> str:
        """Return a trade of an untracked symbol."""
        ids = {name: self.number for name in (self.id_field, "f", "l") if name in self.data}
        return self.encode(self.data | {"s": symbol} | ids | values, f"{symbol.lower()}@{self.data['e']}")

    def with_id(self, value: Any) -> str:
        return self.changed(**{self.id_field: value})

    def at(self, time_ms: int) -> str:
        """Return a trade of the neighbour's symbol with an unknown id at another time."""
        far_id = FAR_ID + 2 * self.number  # never consecutive, as ids of trades are
        ids = {name: far_id for name in (self.id_field, "f", "l") if name in self.data}
        return self.changed(E=time_ms, T=time_ms, **ids)


def _plausible() -> Document:
    times_ms = dict.fromkeys(("E", "T"), FAR_FUTURE_MS)
    return {"e": "aggTrade", **times_ms, "s": _OTHER_SYMBOL, "a": 1, "p": "1.0", "q": "1", "f": 1, "l": 1, "m": False}


def _padded(frame: _Neighbour, size: int) -> str:
    """Return valid JSON of exactly this size in bytes, with wrong data."""
    empty = frame.encode({"e": "aggTrade", "pad": ""})
    return empty.replace('"pad": ""', f'"pad": "{"x" * (size - len(empty))}"')


_Make = Callable[[_Neighbour], str]

_TEXTS: Final[Mapping[str, str]] = {
    "html": "<html><body>502 Bad Gateway</body></html>",
    "empty": "",
    "nul_bytes": "\0" * 64,
    "not_utf8": '{"stream":"\udcff\udcfe@aggTrade","data":{}}',
    "deep_array": "[" * _DEPTH + "]" * _DEPTH,
    "deep_object": '{"stream":"btcusdt@aggTrade","data":' + '{"a":' * _DEPTH + "1" + "}" * (_DEPTH + 1),
    "number": "42",
    "string": '"aggTrade"',
    "null": "null",
    "array": "[[],{}]",
    "huge_integer": '{"e":"aggTrade","a":' + "9" * 5_000 + "}",
    "huge_exponent": '{"e":"aggTrade","a":1e400}',
    "bare_nan": '{"e":"aggTrade","p":NaN,"q":Infinity}',
    "lone_surrogate": '{"e":"aggTrade","s":"\\ud800"}',
    "response": '{"result":null,"id":7}',
    "response_with_streams": '{"result":["btcusdt@aggTrade"],"id":null}',
    "response_huge_id": '{"result":null,"id":' + "9" * 60 + "}",
    "error": '{"error":{"code":2,"msg":"Invalid request: drop table"},"id":1}',
    "error_code": '{"code":3,"msg":"\\u001b[2J\\nInvalid JSON"}',
    "ping_text": "ping",
    "ping_object": '{"ping":9223372036854775807}',
    "shutdown": '{"e":"serverShutdown","E":4070908800000}',
    "shutdown_with_trade": '{"stream":"btcusdt@aggTrade","data":{"e":"serverShutdown","s":"BTCUSDT","a":1}}',
}

_OF_NEIGHBOUR: Final[Mapping[str, _Make]] = {
    "largest": lambda frame: _padded(frame, LARGEST_BYTES),
    "too_large": lambda frame: _padded(frame, LARGEST_BYTES + 1),
    "data_null": lambda frame: frame.encode(None),
    "data_text": lambda frame: frame.encode("trade"),
    "stream_object": lambda frame: frame.encode(frame.data | {"p": None}, {"a": 1}),
    "other_event": lambda frame: frame.changed(e="depthUpdate"),
    "event_array": lambda frame: frame.changed(e=["aggTrade"]),
    "no_symbol": lambda frame: frame.without("s"),
    "no_time": lambda frame: frame.without("T"),
    "no_id": lambda frame: frame.without(frame.id_field),
    "nan_price": lambda frame: frame.changed(p="NaN"),
    "infinite_qty": lambda frame: frame.changed(q="-Infinity"),
    "price_number": lambda frame: frame.changed(p=64_000.1),
    "price_exponent": lambda frame: frame.changed(p="6.4E4"),
    "price_digits": lambda frame: frame.changed(p="9" * 10_000),
    "price_decimals": lambda frame: frame.changed(p="1.0000000001"),
    "price_newline": lambda frame: frame.changed(p="1.0\n"),
    "price_other_script": lambda frame: frame.changed(p="\u0661\u0662\u0663"),
    "qty_array": lambda frame: frame.changed(q=["1"]),
    "side_text": lambda frame: frame.changed(m="true"),
    "negative_id": lambda frame: frame.with_id(-5),
    "boolean_id": lambda frame: frame.with_id(True),
    "fraction_id": lambda frame: frame.with_id(1.5),
    "text_id": lambda frame: frame.with_id("1"),
    "id_of_64_bits": lambda frame: frame.with_id(2**63),
    "id_of_200_digits": lambda frame: frame.with_id(10**200),
    "negative_time": lambda frame: frame.changed(T=-1),
    "time_after_year_9999": lambda frame: frame.changed(E=10**16, T=10**16),
    "sent_far_future": lambda frame: frame.changed(E=FAR_FUTURE_MS),  # a duplicate, but for the sending time
    "sent_far_past": lambda frame: frame.changed(E=1),
    "symbol_number": lambda frame: frame.changed(s=1),
    "symbol_with_quotes": lambda frame: frame.changed(s="BTC'; DROP TABLE trades--"),
    "symbol_with_path": lambda frame: frame.changed(s="../../etc/passwd"),
    "symbol_of_10_kb": lambda frame: frame.changed(s="B" * 10_000),
    "far_future": lambda frame: frame.at(FAR_FUTURE_MS),
    "far_past": lambda frame: frame.at(1),
    "unknown_symbol": lambda frame: frame.of_other_symbol(),
    "many_symbols": lambda frame: frame.of_other_symbol(f"H{frame.number}USDT"),
    "empty_symbol": lambda frame: frame.of_other_symbol(""),
    "negative_price": lambda frame: frame.of_other_symbol(p="-1.5"),
    "zero_qty": lambda frame: frame.of_other_symbol(q="0"),
}


def _text(text: str) -> _Make:
    return lambda _frame: text


_FRAMES: Final[dict[str, _Make]] = {**{name: _text(text) for name, text in _TEXTS.items()}, **_OF_NEIGHBOUR}
HOSTILE_FRAMES: Final = tuple(_FRAMES)
"""The names of all frames."""
