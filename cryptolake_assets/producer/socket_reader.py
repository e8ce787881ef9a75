"""From a socket to the queue: the frames of one connection, as many at once as came together."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.frame_queue import FrameQueue, ReceivedFrames
from cryptolake_assets.producer.websocket_libraries import ExchangeSocket

HANDFUL: Final = 64
"""Frames that share one stamp and one place in the queue: they are read within 0.3 ms. What is done for each frame
between the socket and the queue is a sixth of what reading it takes."""


class SocketReader:
    """Reads until its connection ends. It never waits for Kafka other than by the queue being full."""

    def __init__(self, socket: ExchangeSocket, span: ConnectionSpan, queue: FrameQueue) -> None:
        self._socket = socket
        self._span = span
        self._queue = queue
        self._raws: list[bytes] = []
        """Read, and not yet in the queue."""
        self._received_at_us = 0
        self.waits_for_room = False
        self.last_frame_at = time.monotonic()

    async def run(self) -> None:
        """Until it is cancelled; raises what ends the connection. What was read is handed over even then."""
        receive, raws, call_soon = self._socket.recv, self._raws, asyncio.get_running_loop().call_soon
        try:
            while True:
                # Undecoded: text that is not UTF-8 is a frame to refuse, not a reason to lose the connection.
                raw = await receive(decode=False)
                if not raws:
                    self._received_at_us = time.time_ns() // 1000
                    if self._queue.is_full:
                        await self._room()
                    # Runs when the socket has nothing more for the moment.
                    call_soon(self._hand_over)
                raws.append(raw)
                if len(raws) == HANDFUL:
                    self._hand_over()
        finally:
            self._hand_over()

    async def _room(self) -> None:
        self.waits_for_room = True
        try:
            await self._queue.room()
        finally:
            self.waits_for_room = False

    def _hand_over(self) -> None:
        if raws := self._raws:
            self._queue.put(ReceivedFrames(self._span, self._received_at_us, raws.copy()))
            self._span.frames += len(raws)
            self.last_frame_at = time.monotonic()
            raws.clear()
