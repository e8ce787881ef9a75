"""What became of the frames of one stream: accepted, rejected, or control messages of the exchange."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from cryptolake_assets.contract import RejectedFrame
from cryptolake_assets.contracts.control import ControlFrame, ControlKind
from cryptolake_assets.stream.coverage import ConnectionSpan
from cryptolake_assets.stream.producer_status import StreamCounts

log = structlog.get_logger(__name__)

LOG_INTERVAL_S: Final = 1.0
"""At most one line about rejected frames a second: a broken feed must not fill the disk."""


class FrameAccounts:
    """Counts the frames of one stream, and acts on its control messages."""

    def __init__(self, stream: str, replace: Callable[[ConnectionSpan], None]) -> None:
        """`replace` is called with the span of a connection that the exchange is about to end."""
        self.stream = stream
        self._replace = replace
        self.accepted = 0
        self.rejected = 0
        self.control = 0
        self._not_logged = 0
        self._logged_at = float("-inf")

    @property
    def counts(self) -> StreamCounts:
        return StreamCounts(self.accepted, self.rejected, self.control)

    def reject(self, frame: RejectedFrame) -> None:
        """Count a rejected frame, and log those since the last line when one is due."""
        self.rejected += 1
        self._not_logged += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_S:
            log.warning(
                "frames_rejected",
                stream=self.stream,
                frames=self._not_logged,
                reason=frame.reason,
                size_bytes=len(frame.raw),
            )
            self._not_logged, self._logged_at = 0, now

    def heed(self, frame: ControlFrame, span: ConnectionSpan) -> None:
        """Count a control message; a shutdown notice has its connection replaced before the exchange ends it."""
        self.control += 1
        if frame.kind is ControlKind.ERROR:
            log.warning("exchange_error_received", stream=self.stream, connection=span.name, error=frame.detail[:200])
        elif frame.kind is ControlKind.SHUTDOWN:
            log.info("shutdown_announced", stream=self.stream, connection=span.name)
            self._replace(span)
