"""The WebSocket client libraries that a connection can be read with, behind one interface.

The default is websockets. picows, of the optional extra `fast`, offers the same calls with a reader in C; its
exceptions are its own, so whoever uses a socket catches the groups that are named here.
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


def _both(name: str) -> Any:
    """The exception of that name of each library that is there."""
    found = (getattr(exceptions, name),)
    return found if _picows is None else (*found, getattr(_picows.websockets, name))


CONNECTION_CLOSED: Final[tuple[type[exceptions.ConnectionClosed], ...]] = _both("ConnectionClosed")
"""With `rcvd`, the exchange's close frame or None."""
INVALID_STATUS: Final[tuple[type[exceptions.InvalidStatus], ...]] = _both("InvalidStatus")
"""With `response`: its `status_code` and `headers`."""
INVALID_HANDSHAKE: Final[tuple[type[exceptions.InvalidHandshake], ...]] = _both("InvalidHandshake")
INVALID_URI: Final[tuple[type[exceptions.InvalidURI], ...]] = (
    _both("InvalidURI") if _picows is None else (*_both("InvalidURI"), _picows.WSInvalidURL)
)


class ExchangeSocket(Protocol):
    """An open connection."""

    async def recv(self, decode: bool | None = None) -> Any:
        """The next message; undecoded bytes when `decode` is False. Raises one of `CONNECTION_CLOSED`."""

    async def send(self, message: str) -> None:
        """Sends a text message."""

    async def ping(self) -> Awaitable[float]:
        """Sends a ping; the returned awaitable ends with its pong."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Says goodbye and closes."""


def open_socket(io: ProducerIo, url: str, **options: Any) -> AbstractAsyncContextManager[ExchangeSocket]:
    """Connects by the library that `io` stands for; options are those of `websockets.connect`."""
    connect: Any = _picows.websockets.connect if io is ProducerIo.FAST else _connect_websockets
    socket: AbstractAsyncContextManager[ExchangeSocket] = connect(url, **options)
    return socket
