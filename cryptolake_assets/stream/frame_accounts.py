"""Tells of refused frames in the log, at most one line a second: a broken feed must not fill the disk."""

from __future__ import annotations

import time

import structlog

from cryptolake_assets.contract import RejectedFrame

log = structlog.get_logger(__name__)

APART_S = 1.0


class RefusalLog:
    """Of one stream."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._unsaid = 0
        self._said_at = float("-inf")

    def note(self, frame: RejectedFrame) -> None:
        """Counts a frame, and says how many there were since the last line when one is due."""
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said_at >= APART_S:
            log.warning(
                "frames_rejected",
                stream=self._stream,
                frames=self._unsaid,
                reason=frame.reason,
                size_bytes=len(frame.raw),
            )
            self._unsaid, self._said_at = 0, now
