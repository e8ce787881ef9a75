"""At-least-once delivery: keeps every message until Kafka has acknowledged it, and resends it after a failure.

Duplicates are allowed (Silver removes them by trade id), losses are not. The number of messages in flight is bounded:
while a broker is unavailable, backpressure stops the callers and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.producer.machine import loop_time
from cryptolake_assets.producer.publisher import FailureVerdict, Message, Publisher

log = structlog.get_logger(__name__)

MAX_IN_FLIGHT: Final = 50_000
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
# A client library can wait for ever on a connection that is gone. Longer than any library's own retry takes.
STALLED_SESSION_S: Final = 30.0

OffsetsCallback = Callable[[dict[int, int]], None]


class _Segment:
    """The messages between two markers."""

    __slots__ = ("closed_by", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.closed_by: Callable[[], None] | None = None


class ReliableDelivery:
    """Sends messages through a publisher, and reports when all messages before a marker are acknowledged."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        retry_first_s: float = RETRY_FIRST_S,
        stalled_session_s: float = STALLED_SESSION_S,
    ) -> None:
        self._publisher = publisher
        self._max_in_flight = max_in_flight
        self._retry_first_s = retry_first_s
        self._retry_s = retry_first_s
        self._stalled_session_s = stalled_session_s
        self._segments: deque[_Segment] = deque([_Segment()])
        self._failed: list[Message] = []
        self._failed_event = asyncio.Event()
        self._room = asyncio.Event()
        self._restart_needed = False
        # Messages that are resent, because the offset of their first acknowledgement was below an earlier one.
        self._unconfirmed: set[Message] = set()
        # Fails with `BrokerAccessError` once retries cannot help.
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Per trade topic and partition: the last acknowledged offset + 1 (initially the end offset).
        self.next_offsets: dict[str, dict[int, int]] = {}
        self.in_flight = 0
        self.acked: dict[str, int] = {}  # acknowledged messages per topic
        self.messages_resent = 0
        self._last_ack_at = loop_time()
        self._restart_tried_at = loop_time()

    async def start(self) -> None:
        """Connect the publisher; wait for the broker without a time limit.

        Raises `BrokerAccessError` if the brokers reject the client permanently.
        """
        pause_s = self._retry_first_s
        while True:
            try:
                await self._publisher.start(self)
                break
            except BrokerAccessError:
                raise
            except BrokerError as error:
                log.warning("broker_unreachable", error=str(error), retry_in_s=round(pause_s, 1))
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)
        self.next_offsets = {topic: dict(offsets) for topic, offsets in self._publisher.start_offsets.items()}

    async def wait_for_room(self) -> None:
        """Wait while too many messages are in flight."""
        while self.in_flight >= self._max_in_flight:
            self._room.clear()
            await self._room.wait()

    async def put(self, message: Message) -> None:
        """Wait for room, then take over a message."""
        await self.wait_for_room()
        self.add([message])

    def add(self, messages: Sequence[Message]) -> None:
        """Take over messages without waiting for room: callers await `wait_for_room` before each batch."""
        if not messages:
            return
        segment = self._segments[-1]
        segment.waiting += len(messages)
        for message in messages:
            message.tag = segment
        if not self.in_flight:
            self._last_ack_at = loop_time()
        self.in_flight += len(messages)
        self._publisher.send(messages)

    @property
    def stalled_s(self) -> float:
        """Seconds since the last acknowledgement while messages are in flight; 0 if none are."""
        return loop_time() - self._last_ack_at if self.in_flight else 0.0

    def mark(self, topic: str, when_acknowledged: OffsetsCallback) -> None:
        """Call back, with the topic's next offset per partition, once all earlier messages are acknowledged.

        Earlier messages of other topics delay the call as well.
        """
        self._close_segment(lambda: when_acknowledged(dict(self.next_offsets[topic])))

    def _close_segment(self, when_acknowledged: Callable[[], None]) -> None:
        self._segments[-1].closed_by = when_acknowledged
        self._segments.append(_Segment())
        self._finish_segments()

    async def drained(self) -> None:
        """Wait until all messages so far are acknowledged."""
        done = asyncio.get_running_loop().create_future()
        self._close_segment(lambda: None if done.done() else done.set_result(None))
        await done

    # Reports of the publisher.

    def acknowledged(self, messages: Sequence[Message], partition: int, first_offset: int) -> None:
        topic = messages[0].topic
        next_offsets = self.next_offsets.get(topic)
        if next_offsets is not None:
            next_offset = first_offset + len(messages)
            if self._unconfirmed or first_offset < next_offsets.get(partition, 0):
                messages = self._confirmed(messages, partition, first_offset, next_offsets.get(partition, 0))
                if not messages:
                    return
            next_offsets[partition] = next_offset
        elif first_offset >= 0:
            for offset, message in enumerate(messages, first_offset):
                if message.when_acknowledged is not None:
                    message.when_acknowledged(partition, offset)
        self.acked[topic] = self.acked.get(topic, 0) + len(messages)
        self._retry_s = self._retry_first_s
        self._last_ack_at = loop_time()
        self.in_flight -= len(messages)
        if not self._room.is_set():
            self._room.set()
        if len(self._segments) == 1:
            self._segments[0].waiting -= len(messages)
            return
        for message in messages:
            message.tag.waiting -= 1
        self._finish_segments()

    def _confirmed(
        self, messages: Sequence[Message], partition: int, first_offset: int, next_offset: int
    ) -> Sequence[Message]:
        """Return the messages that count as acknowledged; the others are resent.

        A broker that recognizes a batch as a duplicate reports no offset, but a coverage claim needs one. The second
        acknowledgement with an offset always counts: in that case the topic was recreated.
        """
        confirmed: Sequence[Message] = messages
        if first_offset < next_offset:
            resent = self._unconfirmed if first_offset >= 0 else ()
            confirmed = [message for message in messages if message in resent]
            unconfirmed = [message for message in messages if message not in resent]
            if unconfirmed:
                self._unconfirmed.update(unconfirmed)
                error = BrokerError(
                    f"kafka: partition {partition} of {messages[0].topic} acknowledged offset {first_offset}, which is "
                    f"below the next offset {next_offset}. The producer resends the messages."
                )
                self.failed(unconfirmed, error)
        self._unconfirmed.difference_update(confirmed)
        return confirmed

    def failed(self, messages: Sequence[Message], error: BaseException) -> None:
        verdict = self._publisher.judge(error)
        if verdict is FailureVerdict.FATAL:
            self._give_up(
                BrokerAccessError(
                    f"kafka: the brokers permanently reject records on topic {messages[0].topic} "
                    f"({type(error).__name__}: {error}). Check the user's permissions and the topic's settings."
                )
            )
            return
        self._restart_needed = self._restart_needed or verdict is FailureVerdict.RESTART
        if not self._failed:
            log.warning(
                "delivery_failed",
                topic=messages[0].topic,
                messages=len(messages),
                error=f"{type(error).__name__}: {error}",
            )
        self._failed.extend(messages)
        self._failed_event.set()

    async def run(self) -> None:
        """Resend failed messages, with a growing pause, until cancelled; replace a session that stalls."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stalled_session_s):
                    await self._failed_event.wait()
            if self._failed_event.is_set():
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(RETRY_MAX_S, self._retry_s * 2)
                self._failed_event.clear()
            if (self._restart_needed or self._session_stalls) and not await self._restart():
                if self._failed:
                    self._failed_event.set()
                continue
            failed, self._failed = self._failed, []
            if failed:
                log.info("batch_resent", messages=len(failed))
                self.messages_resent += len(failed)
                self._publisher.send(failed)

    @property
    def _session_stalls(self) -> bool:
        """Whether a new session may help: nothing was acknowledged for long, and the last attempt was long ago."""
        since_attempt_s = loop_time() - self._restart_tried_at
        return min(self.stalled_s, since_attempt_s) >= self._stalled_session_s

    async def _restart(self) -> bool:
        """Restart the publisher's session; return whether it succeeded."""
        self._restart_tried_at = loop_time()
        try:
            await self._publisher.restart()
        except BrokerAccessError as error:
            self._give_up(error)
            return False
        except BrokerError as error:
            log.warning("broker_unreachable", error=str(error), retry_in_s=round(self._retry_s, 1))
            return False
        log.warning("kafka_session_restarted", in_flight=self.in_flight)
        # Cleared last: messages that failed during the restart belong to the old session.
        self._restart_needed = False
        return True

    def _give_up(self, error: BrokerAccessError) -> None:
        if not self.fatal.done():
            self.fatal.set_exception(error)

    def _finish_segments(self) -> None:
        while not (first := self._segments[0]).waiting and first.closed_by is not None:
            self._segments.popleft()
            first.closed_by()
