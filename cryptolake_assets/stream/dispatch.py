"""From frames to messages: the one task between the queue and the outbox, in the order in which frames were received.

It works on handfuls of frames without waiting in between: a frame's own work is a few microseconds, and everything
that can be done once for many is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import structlog

from cryptolake_assets.contract import AcceptedFrame, IgnoredFrame, RejectedFrame, parse_frame
from cryptolake_assets.settings import Settings
from cryptolake_assets.stream.coverage import ConnectionSpan
from cryptolake_assets.stream.frame_queue import FrameQueue, QueueItem, ReceivedFrame, SpanMark
from cryptolake_assets.stream.gaps import GapTracker
from cryptolake_assets.stream.kafka import dead_letter
from cryptolake_assets.stream.last_trades import FETCHED_HEADERS
from cryptolake_assets.stream.outbox import Outbox
from cryptolake_assets.stream.publisher import Message
from cryptolake_assets.stream.refusals import RefusalLog

log = structlog.get_logger(__name__)

FRAMES_AT_ONCE: Final = 500
MAX_ROUTES: Final = 4_096
"""Symbols whose key and partition are remembered."""

Mark = Callable[[ConnectionSpan, int | None, bool], None]
"""Span, the exchange's clock (ms) at an instant before which every frame was seen, and whether the span has ended."""


class Dispatcher:
    """Takes frames from the queue through the contract into the outbox."""

    def __init__(
        self,
        settings: Settings,
        stream: str,
        *,
        queue: FrameQueue,
        outbox: Outbox,
        gaps: GapTracker,
        fetched: ConnectionSpan,
        partition_for: Callable[[bytes], int],
        mark: Mark,
    ) -> None:
        """`fetched` is the span of frames that did not come over a connection; `mark` is told of the places in the
        frames' order about which coverage is to be stated."""
        self._venue = settings.venue
        self._trades_topic = settings.kafka_topic_futures
        self._rejected_topic = settings.topic_rejected
        self._stream = stream
        self._queue = queue
        self._outbox = outbox
        self._gaps = gaps
        self._fetched = fetched
        self._mark = mark

        # Whether a symbol was subscribed does not matter: it is kept all the same, Silver judges symbols.
        @lru_cache(MAX_ROUTES)
        def route(symbol: str) -> tuple[bytes, int]:
            key = symbol.encode()
            return key, partition_for(key)

        self._route = route
        self._refusals = RefusalLog(stream)
        self.frames = 0
        """Frames taken from the queue, of any kind."""
        self.last_event_time_us: int | None = None
        """Trade time of the newest event."""

    async def run(self) -> None:
        """Until `EndOfFrames`."""
        while True:
            items = await self._queue.take(FRAMES_AT_ONCE)
            self.frames += sum(type(item) is ReceivedFrame for item in items)
            await self._outbox.room()
            if not self._dispatch(items):
                return
            # Neither queue nor outbox waits while there is something to do; the readers need their turn.
            await asyncio.sleep(0)

    def _dispatch(self, items: Sequence[QueueItem]) -> bool:
        """Returns whether more can follow."""
        messages: list[Message] = []
        # Looked up once for many frames.
        fetched, stream, topic = self._fetched, self._stream, self._trades_topic
        route_of, see_trade = self._route, self._gaps.see
        exchange, unnamed_trade_type = self._venue.exchange, self._venue.unnamed_trade_type
        for item in items:
            if type(item) is ReceivedFrame:
                parsed = parse_frame(
                    item.raw,
                    ingest_time_us=item.received_at_us,
                    exchange=exchange,
                    unnamed_trade_type=unnamed_trade_type,
                )
                if type(parsed) is AcceptedFrame:
                    event, span = parsed.event, item.span
                    symbol = event.symbol
                    headers = None
                    if span is fetched:
                        self._gaps.fill(symbol, event.trade_id, event.event_time)
                        headers = FETCHED_HEADERS
                    else:
                        span.see(parsed.exchange_time_ms)
                        if event.stream == stream:
                            see_trade(symbol, event.trade_id, event.event_time)
                    self.last_event_time_us = event.event_time
                    key, partition = route_of(symbol)
                    messages.append(Message(topic, event.encode(), key, partition, headers))
                    continue
                if type(parsed) is RejectedFrame:
                    messages.append(self._reject(parsed, item.received_at_us))
                    continue
                if type(parsed) is not IgnoredFrame or parsed.request_id not in item.span.requests:
                    continue
                asked_ms, span, ended = item.span.requests.pop(parsed.request_id), item.span, False
            elif type(item) is SpanMark:
                asked_ms, span, ended = None, item.span, item.ended
            else:
                self._outbox.add(messages)
                return False
            # What was received before the mark has to be under way before it.
            self._outbox.add(messages)
            messages = []
            self._mark(span, asked_ms, ended)
        self._outbox.add(messages)
        return True

    def _reject(self, frame: RejectedFrame, received_at_us: int) -> Message:
        self._refusals.note(frame)
        value, headers = dead_letter(frame, stream=self._stream, received_at_us=received_at_us)
        return Message(self._rejected_topic, value, headers=headers)
