"""The WebSocket client libraries for connections, behind one interface.

The default is websockets. picows, of the optional extra `fast`, offers the same calls with a reader in C, but its own
exceptions, so users of a socket catch the exception groups of this module.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from websockets import exceptions
from websockets.asyncio.client import connect as _connect_websockets

from cryptolake_assets.settings.producer import ProducerIo

_picows: Any = None
try:
    import picows
    import picows.websockets

    _picows = picows
except ImportError:
    pass  # the extra is not installed


def _from_libraries(name: str) -> Any:
    """Return the exception of this name from each installed library."""
    classes = (getattr(exceptions, name),)
    return classes if _picows is None else (*classes, getattr(_picows.websockets, name))


# Attribute `rcvd`: the exchange's close frame or None.
CONNECTION_CLOSED: Final[tuple[type[exceptions.ConnectionClosed], ...]] = _from_libraries("ConnectionClosed")
# Attribute `response`, with `status_code` and `headers`.
INVALID_STATUS: Final[tuple[type[exceptions.InvalidStatus], ...]] = _from_libraries("InvalidStatus")
INVALID_HANDSHAKE: Final[tuple[type[exceptions.InvalidHandshake], ...]] = _from_libraries("InvalidHandshake")
INVALID_URI: Final[tuple[type[exceptions.InvalidURI], ...]] = (
    _from_libraries("InvalidURI") if _picows is None else (*_from_libraries("InvalidURI"), _picows.WSInvalidURL)
)


class ExchangeSocket(Protocol):
    """An open WebSocket connection."""

    async def recv(self, decode: bool | None = None) -> Any:
        """Return the next message; undecoded bytes if `decode` is False. Raises one of `CONNECTION_CLOSED`."""

    async def send(self, message: str) -> None:
        """Send a text message."""

    async def ping(self) -> Awaitable[float]:
        """Send a ping; the returned awaitable completes with its pong."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame and close."""


def open_socket(io: ProducerIo, url: str, **options: Any) -> AbstractAsyncContextManager[ExchangeSocket]:
    """Connect with the library of `io`; takes the options of `websockets.connect`."""
    connect: Any = _picows.websockets.connect if io is ProducerIo.FAST else _connect_websockets
    socket: AbstractAsyncContextManager[ExchangeSocket] = connect(url, **options)
    return socket
