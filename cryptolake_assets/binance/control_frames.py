"""Control messages of the exchange: responses, errors, the shutdown notice, heartbeats. Pure.

The shapes are the same for all streams. The producer sends a frame that is neither market data nor one of these shapes
to the dead-letter topic. Sources:
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Live-Subscribing-Unsubscribing-to-streams,
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct


class ControlKind(StrEnum):
    """Kind of a control message."""

    RESPONSE = "answer"  # response to a client request, such as a subscription
    ERROR = "error"  # the exchange could not carry out a request
    SHUTDOWN = "shutdown"  # the server will close its connections soon: the client opens a new one first
    HEARTBEAT = "heartbeat"
    # Recorders write client requests and REST responses (a depth snapshot) between the frames of a capture.
    REQUEST = "request"
    REST_RESPONSE = "rest_answer"


class ControlFrame(Struct, frozen=True, gc=False):
    """A control message."""

    kind: ControlKind
    request_id: int | None = None  # id of the request that it responds to; None if it is not an integer
    detail: str = ""  # the exchange's text for an error, on one line


_INTEGER: Final = (int,)
_LIST: Final = (list,)
_ID: Final = (int, str, type(None))
_ANY: Final = (object,)


@dataclass(frozen=True)
class _Shape:
    """The fields of a control message with their types."""

    kind: ControlKind
    required: Mapping[str, tuple[type, ...]]
    optional: Mapping[str, tuple[type, ...]]
    is_open: bool = False  # whether unlisted fields are allowed
    event: str | None = None  # the value of `e`

    def fits(self, message: Mapping[str, Any]) -> bool:
        known = {**self.required, **self.optional}
        return (
            self.required.keys() <= message.keys()
            and (self.is_open or message.keys() <= known.keys())
            and all(_is_of(message[name], types) for name, types in known.items() if name in message)
            and self.event == message.get("e")
        )


_STATUS: Final = {"id": _ID, "status": _INTEGER, "rateLimits": _LIST}
_SHAPES: Final = (
    _Shape(ControlKind.RESPONSE, {"result": _ANY, "id": _ID}, _STATUS),
    _Shape(ControlKind.ERROR, {"error": (dict, str)}, {**_STATUS, "code": _INTEGER, "msg": (str,)}),
    _Shape(ControlKind.ERROR, {"code": _INTEGER, "msg": (str,)}, _STATUS),
    _Shape(ControlKind.SHUTDOWN, {"e": (str,)}, {"E": _INTEGER}, event="serverShutdown"),
    _Shape(ControlKind.HEARTBEAT, {"e": (str,)}, {"E": _INTEGER}, event="heartbeat"),
    _Shape(ControlKind.HEARTBEAT, {"ping": _INTEGER}, {}),
    _Shape(ControlKind.HEARTBEAT, {"pong": _INTEGER}, {}),
    _Shape(ControlKind.REQUEST, {"method": (str,), "id": _ID}, {"params": (list, dict)}),
    # REST: depth, time, exchangeInfo, openInterest.
    _Shape(
        ControlKind.REST_RESPONSE,
        {"lastUpdateId": _INTEGER, "bids": _LIST, "asks": _LIST},
        {"E": _INTEGER, "T": _INTEGER, "symbol": (str,), "pair": (str,)},
    ),
    _Shape(ControlKind.REST_RESPONSE, {"serverTime": _INTEGER}, {}),
    _Shape(ControlKind.REST_RESPONSE, {"timezone": (str,), "serverTime": _INTEGER, "symbols": _LIST}, {}, is_open=True),
    _Shape(ControlKind.REST_RESPONSE, {"symbol": (str,), "openInterest": (str,), "time": _INTEGER}, {}, is_open=True),
)


_HEARTBEAT_TEXTS: Final = ("ping", "pong")


def read_text(raw: bytes | str) -> ControlFrame | None:
    """Return the control message of a plain-text (non-JSON) frame; None for any other frame."""
    text = raw.strip().decode("utf-8", "replace") if isinstance(raw, bytes) else raw.strip()
    return ControlFrame(ControlKind.HEARTBEAT) if text in _HEARTBEAT_TEXTS else None


def read_control(message: object) -> ControlFrame | None:
    """Return the control message of a decoded frame, combined or raw; None for any other frame."""
    if isinstance(message, str):
        return read_text(message)
    if not isinstance(message, dict):
        return None
    if message.keys() == {"stream", "data"} and isinstance(message["data"], dict):
        message = message["data"]
    shape = next((shape for shape in _SHAPES if shape.fits(message)), None)
    if shape is None:
        return None
    request_id = message.get("id")
    return ControlFrame(
        shape.kind,
        request_id if type(request_id) is int else None,
        str(message.get("error") or message.get("msg")) if shape.kind is ControlKind.ERROR else "",
    )


def _is_of(value: object, types: tuple[type, ...]) -> bool:
    """Return whether the value has one of the types; booleans do not count as integers."""
    return isinstance(value, types) and not (isinstance(value, bool) and types is not _ANY)
