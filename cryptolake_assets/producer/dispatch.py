"""The dispatcher: the single task that turns queued frames into messages for the delivery, in order of receipt.

It handles frames in batches without awaiting in between: one frame takes a few microseconds, and shared work runs
once per batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final

import structlog

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.trade_frames import AcceptedFrame, IdWithoutTrade
from cryptolake_assets.binance.venue_adapter import TradeParser
from cryptolake_assets.kafka.topics import dead_letter
from cryptolake_assets.model.events import RejectedFrame, TradeEvent, encode_event
from cryptolake_assets.producer.coverage_statements import ConnectionSpan
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.frame_accounts import FrameAccounts
from cryptolake_assets.producer.frame_queue import FrameQueue, QueueItem, ReceivedFrames, SpanMark
from cryptolake_assets.producer.gap_tracker import GapTracker
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.producer.resume_point import FETCHED_HEADERS
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

FRAMES_AT_ONCE: Final = 500
MAX_ROUTES: Final = 4_096  # symbols whose key and partition are cached

# Arguments: span, exchange clock (ms) of the barrier (all earlier frames were seen), whether the span has ended.
Mark = Callable[[ConnectionSpan, int | None, bool], None]


class Dispatcher:
    """Parses frames from the queue and hands the messages to the delivery."""

    def __init__(
        self,
        settings: Settings,
        stream: str,
        *,
        parse: TradeParser,
        has_numbers: bool,
        queue: FrameQueue,
        delivery: ReliableDelivery,
        gaps: GapTracker,
        fetched: ConnectionSpan,
        partition_for: Callable[[bytes], int],
        mark: Mark,
        accounts: FrameAccounts,
    ) -> None:
        """`has_numbers`: the stream's trades have consecutive ids, which `gaps` tracks.

        `fetched` is the span of frames from the REST history.

        `mark` is called at each point in the frame order for which coverage is to be claimed.
        """
        self._parse = parse
        self._numbered_stream = stream if has_numbers else None
        self._trades_topic = settings.topic_trades
        self._rejected_topic = settings.topic_rejected
        self._stream = stream
        self._queue = queue
        self._delivery = delivery
        self._gaps = gaps
        self._fetched = fetched
        self._mark = mark

        # Frames of untracked symbols are published as well: Silver validates symbols.
        @lru_cache(MAX_ROUTES)
        def route(symbol: str) -> tuple[bytes, int]:
            accounts.check_subscribed(symbol)
            key = symbol.encode()
            return key, partition_for(key)

        self._route = route
        self._messages: list[Message] = []  # created, not yet in the delivery
        self._accounts = accounts
        self.frames = 0  # frames taken from the queue, of any kind
        self.last_event_time_us: int | None = None  # trade time of the newest event

    async def run(self) -> None:
        """Dispatch until `EndOfFrames`."""
        while True:
            items = await self._queue.take(FRAMES_AT_ONCE)
            await self._delivery.wait_for_room()
            if not self._dispatch(items):
                return
            # Queue and delivery do not yield while there is work, and the readers need a turn.
            await asyncio.sleep(0)

    def _dispatch(self, items: Sequence[QueueItem]) -> bool:
        """Dispatch the items; return False after the last one."""
        for item in items:
            if isinstance(item, ReceivedFrames):
                self.frames += len(item.raws)
                if item.span is self._fetched:
                    self._take_fetched(item)
                else:
                    self._take_streamed(item)
            elif isinstance(item, SpanMark):
                self._mark_here(item.span, None, item.ended)
            else:
                self._send()
                return False
        self._send()
        return True

    def _take_streamed(self, frames: ReceivedFrames) -> None:
        # Attribute lookups once per batch.
        span, received_at_us, messages = frames.span, frames.received_at_us, self._messages
        numbered_stream, topic, parse = self._numbered_stream, self._trades_topic, self._parse
        route_of, see_trade, accounts = self._route, self._gaps.see, self._accounts
        exchange_times_ms: list[int] = []
        rejecting, subscribed = span.rejecting, span.subscribed
        event: TradeEvent | None = None
        for raw in frames.raws:
            parsed = parse(raw, received_at_us)
            if type(parsed) is AcceptedFrame:
                event = parsed.event
                symbol = event.symbol
                exchange_times_ms.append(parsed.exchange_time_ms)
                # Ids of other symbols have no history to repair them from, and their number is unbounded.
                if event.stream == numbered_stream and symbol in subscribed:
                    if rejecting and symbol in rejecting:
                        self._take_after_rejected(event, span, parsed.exchange_time_ms)
                    else:
                        see_trade(symbol, event.trade_id, event.event_time)
                key, partition = route_of(symbol)
                messages.append(Message(topic, encode_event(event), key, partition))
            elif type(parsed) is RejectedFrame:
                span.see(*exchange_times_ms)
                accounts.accepted += len(exchange_times_ms)
                exchange_times_ms.clear()
                is_gap = False
                if parsed.symbol in span.symbols and parsed.trade_id is not None:
                    self._gaps.reject(parsed.symbol, parsed.trade_id, parsed.reason, was_fetched=False)
                    is_gap = self._gaps.is_near(parsed.symbol, parsed.trade_id)
                accounts.reject(parsed, span, is_gap=is_gap)
                messages.append(self._dead_letter(parsed, received_at_us))
            elif type(parsed) is IdWithoutTrade:
                exchange_times_ms.append(parsed.exchange_time_ms)
                if parsed.stream == numbered_stream and parsed.trade_id is not None and parsed.symbol in subscribed:
                    see_trade(parsed.symbol, parsed.trade_id, parsed.event_time)
            elif type(parsed) is ControlFrame:
                if parsed.request_id in span.requests:
                    # The response proves that all frames before it were received.
                    span.see(*exchange_times_ms)
                    accounts.accepted += len(exchange_times_ms)
                    exchange_times_ms.clear()
                    self._mark_here(span, span.requests.pop(parsed.request_id), False)
                else:
                    accounts.handle_control(parsed, span)
        span.see(*exchange_times_ms)
        accounts.accepted += len(exchange_times_ms)
        if event is not None:
            self.last_event_time_us = event.event_time
            span.received_at_us = received_at_us

    def _take_after_rejected(self, event: TradeEvent, span: ConnectionSpan, exchange_time_ms: int) -> None:
        """Record a trade of a symbol with rejected frames.

        The next trade's id shows whether a trade is missing. A trade that fills an older gap bounds the time of the
        rejected ones, which suffices if a gap records each of them. A duplicate shows nothing.
        """
        gaps, symbol = self._gaps, event.symbol
        before = gaps.last(symbol)
        was_missing = gaps.see(symbol, event.trade_id, event.event_time)
        newest = gaps.last(symbol)
        if newest is not None and newest != before and newest.trade_id == event.trade_id:
            from_ms = event.event_time // 1000 + 1 if before is None else None
            self._accounts.accept_again(symbol, span, from_ms)
        elif was_missing and symbol not in span.unexplained:
            gaps.bound_rejected(symbol, max(event.event_time, exchange_time_ms * 1000))
            self._accounts.accept_again(symbol, span, None)

    def _take_fetched(self, frames: ReceivedFrames) -> None:
        for raw in frames.raws:
            parsed = self._parse(raw, frames.received_at_us)
            if isinstance(parsed, AcceptedFrame):
                event = parsed.event
                self._gaps.fill(event.symbol, event.trade_id, event.event_time)
                self.last_event_time_us = event.event_time
                key, partition = self._route(event.symbol)
                value = encode_event(event)
                self._messages.append(Message(self._trades_topic, value, key, partition, FETCHED_HEADERS))
            elif isinstance(parsed, IdWithoutTrade):
                if parsed.trade_id is not None:
                    self._gaps.mark_not_order_book(parsed.symbol, parsed.trade_id, parsed.trade_id)
            elif isinstance(parsed, RejectedFrame) and (
                # One dead letter per trade, however often it is fetched.
                parsed.symbol is None
                or parsed.trade_id is None
                or self._gaps.reject(parsed.symbol, parsed.trade_id, parsed.reason, was_fetched=True)
            ):
                self._messages.append(self._dead_letter(parsed, frames.received_at_us))

    def _mark_here(self, span: ConnectionSpan, barrier_ms: int | None, ended: bool) -> None:
        # Frames received before the mark must be in flight before it.
        self._send()
        self._mark(span, barrier_ms, ended)

    def _send(self) -> None:
        self._delivery.add(self._messages)
        self._messages.clear()

    def _dead_letter(self, frame: RejectedFrame, received_at_us: int) -> Message:
        value, headers = dead_letter(frame, stream=self._stream, received_at_us=received_at_us)
        on_acknowledged = None
        if frame.symbol is not None and frame.trade_id is not None:
            on_acknowledged = partial(self._gaps.dead_letter_at, frame.symbol, frame.trade_id)
        return Message(self._rejected_topic, value, headers=headers, when_acknowledged=on_acknowledged)
