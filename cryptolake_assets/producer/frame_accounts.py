"""Frame accounting of one stream: accepted, rejected and control frames."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import structlog

from cryptolake_assets.binance.control_frames import ControlFrame, ControlKind
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.model.symbols import is_symbol, stream_name
from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.machine import loop_time
from cryptolake_assets.producer.status_file import MAX_SYMBOLS_SHOWN, RejectedSymbol, StreamCounts

log = structlog.get_logger(__name__)

# Minimum interval between log lines about rejected frames: a broken feed must not fill the disk.
LOG_INTERVAL_S: Final = 1.0
MAX_SYMBOLS_CHECKED: Final = 4_096  # symbols remembered, so that each is checked and logged once


class FrameAccounts:
    """Counts the frames of one stream and handles its control messages."""

    def __init__(
        self, stream: str, replace: Callable[[ConnectionSpan], None], symbols: Callable[[], Collection[str]]
    ) -> None:
        """`replace` is called with the span of a connection that the exchange is about to end.

        `symbols` returns the tracked symbols.
        """
        self.stream = stream
        self._replace = replace
        self._symbols = symbols
        self._checked: dict[str, None] = {}
        self.accepted = 0
        self.rejected = 0
        self.control = 0
        # Symbols with rejected frames and none accepted since, the latest last.
        self.rejecting: dict[str, RejectedSymbol] = {}
        self._not_logged = 0
        self._logged_at = float("-inf")

    @property
    def counts(self) -> StreamCounts:
        return StreamCounts(self.accepted, self.rejected, self.control)

    def check_subscribed(self, symbol: str) -> None:
        """Log, once, a symbol in a frame that is not subscribed.

        It differs in spelling from its stream's name, or is no longer tracked. Its frames are published anyway.
        """
        if symbol in self._checked:
            return
        self._checked[symbol] = None
        if len(self._checked) > MAX_SYMBOLS_CHECKED:
            del self._checked[next(iter(self._checked))]
        if symbol not in self._symbols():
            log.warning("symbol_not_subscribed", stream=self.stream, symbol=symbol)

    def reject(self, frame: RejectedFrame, span: ConnectionSpan, *, is_gap: bool = False) -> None:
        """Count a rejected frame of a connection; log those since the last log line, if one is due.

        `is_gap`: a gap records its trade.
        """
        self.rejected += 1
        symbols = _symbols_of(frame, span)
        if frame.symbol is not None and is_symbol(frame.symbol):
            self.check_subscribed(frame.symbol)
        span.reject(symbols, is_gap=is_gap)
        if len(symbols) == 1:
            previous = self.rejecting.pop(symbols[0], None)
            self.rejecting[symbols[0]] = RejectedSymbol(1 + (previous.frames if previous else 0), frame.reason)
            while len(self.rejecting) > MAX_SYMBOLS_SHOWN:
                del self.rejecting[next(iter(self.rejecting))]
        self._not_logged += 1
        now = loop_time()
        if now - self._logged_at >= LOG_INTERVAL_S:
            log.warning(
                "frames_rejected",
                stream=self.stream,
                frames=self._not_logged,
                reason=frame.reason,
                size_bytes=len(frame.raw),
            )
            self._not_logged, self._logged_at = 0, now

    def accept_again(self, symbol: str, span: ConnectionSpan, from_ms: int | None) -> None:
        """Record an accepted frame of a symbol with rejected frames."""
        span.accept_again(symbol, from_ms)
        self.rejecting.pop(symbol, None)

    def handle_control(self, frame: ControlFrame, span: ConnectionSpan) -> None:
        """Count a control message; on a shutdown notice, replace its connection before the exchange ends it."""
        self.control += 1
        if frame.kind is ControlKind.ERROR:
            log.warning("exchange_error_received", stream=self.stream, connection=span.name, error=frame.detail[:200])
        elif frame.kind is ControlKind.SHUTDOWN:
            log.info("shutdown_announced", stream=self.stream, connection=span.name)
            self._replace(span)


def _symbols_of(frame: RejectedFrame, span: ConnectionSpan) -> tuple[str, ...]:
    """Return the symbols of the connection to which a rejected frame may belong: all, if it names none."""
    if frame.symbol in span.symbols:
        return (frame.symbol,)
    if (name := frame.stream_name) is not None:
        return tuple(symbol for symbol in span.symbols if name.startswith(stream_name(symbol, "")))
    return () if frame.symbol is not None and is_symbol(frame.symbol) else span.symbols
