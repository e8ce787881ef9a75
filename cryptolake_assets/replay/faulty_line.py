"""Apply the configured faults to one connection's frames: drop, corrupt, duplicate, delay, disconnect, stall. Pure.

A `FaultyLine` takes the frames in order and returns the steps to carry out on the wire. Frame faults form a pipeline:
each stage takes the output of the stage before it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from cryptolake_assets.model.hostile_frames import hostile_frame
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.replay_faults import (
    Corrupt,
    Cut,
    Drop,
    Duplicate,
    FaultBoard,
    HalfOpen,
    Hostile,
    Interruption,
    Reorder,
    Shutdown,
    Silent,
    Stall,
    Switch,
    chance,
)


class NumberedFrame(Protocol):
    """A frame of the capture."""

    @property
    def stream(self) -> str | None:
        """Its stream; None if it is sent to all clients."""

    @property
    def number(self) -> int:
        """Its index in the capture, from 0."""

    @property
    def due_ns(self) -> int:
        """Its due time (exchange time, ns)."""

    @property
    def trade_id(self) -> int | None:
        """Its id as a trade or aggregate; None if it has none."""


class ReplayedFrame(NamedTuple):
    """A frame in the pipeline, with its current text."""

    frame: NumberedFrame
    text: str


ConnectionFault = Cut | Stall | HalfOpen | Shutdown
Step = ReplayedFrame | ConnectionFault  # a frame to send, or a connection fault


class Stage(Protocol):
    """One frame fault of the pipeline."""

    def take(self, delivery: ReplayedFrame) -> Sequence[ReplayedFrame]:
        """Return the frames to pass on now; the given frame may be dropped or delayed."""

    def flush(self) -> Sequence[ReplayedFrame]:
        """Return the delayed frames."""


class _ImmediateStage:
    """A stage that does not delay frames."""

    def flush(self) -> Sequence[ReplayedFrame]:
        return ()


class SilentStage(_ImmediateStage):
    """Drop all frames of a stream from a frame on, for a time."""

    def __init__(self, fault: Silent, switch: Switch) -> None:
        self._fault, self._switch = fault, switch
        self._seen: dict[str | None, int] = {}
        self._began_ns: dict[str | None, int] = {}
        self._over: set[str | None] = set()

    def take(self, delivery: ReplayedFrame) -> Sequence[ReplayedFrame]:
        fault, stream = self._fault, delivery.frame.stream
        if not fault.concerns(stream) or stream in self._over:
            return (delivery,)
        due_ns = delivery.frame.due_ns
        if stream not in self._began_ns:
            seen = self._seen.get(stream, 0)
            self._seen[stream] = seen + 1
            if seen < fault.after_frames:
                return (delivery,)
            if not self._switch.happens():
                self._over.add(stream)
                return (delivery,)
            self._began_ns[stream] = due_ns
        if fault.for_s and due_ns >= self._began_ns[stream] + fault.for_s * 1e9:
            self._over.add(stream)
            return (delivery,)
        return ()


class DropStage(_ImmediateStage):
    """Drop frames by id, or a share of them."""

    def __init__(self, fault: Drop, switch: Switch) -> None:
        self._fault, self._switch = fault, switch
        self._remaining: dict[str | None, int] = {}  # remaining frames of the current run, by stream

    def take(self, delivery: ReplayedFrame) -> Sequence[ReplayedFrame]:
        fault, frame = self._fault, delivery.frame
        if not fault.concerns(frame.stream):
            return (delivery,)
        remaining = self._remaining.get(frame.stream, 0)
        if not remaining and chance(fault.seed, "drop", frame.number) < fault.share:
            remaining = 1 + int(chance(fault.seed, "run", frame.number) * fault.run)
        self._remaining[frame.stream] = max(0, remaining - 1)
        if (remaining or self._is_selected(frame)) and self._switch.happens():
            return ()
        return (delivery,)

    def _is_selected(self, frame: NumberedFrame) -> bool:
        if not self._fault.ids or (trade_id := frame.trade_id) is None:
            return False
        return any(first <= trade_id <= last for first, last in self._fault.ids)


class CorruptStage(_ImmediateStage):
    """Corrupt a share of the frames."""

    def __init__(self, fault: Corrupt, switch: Switch) -> None:
        self._fault, self._switch = fault, switch

    def take(self, delivery: ReplayedFrame) -> Sequence[ReplayedFrame]:
        fault, frame = self._fault, delivery.frame
        hit = fault.concerns(frame.stream) and chance(fault.seed, "corrupt", frame.number) < fault.share
        if hit and self._switch.happens():
            return (ReplayedFrame(frame, corrupted(delivery.text, chance(fault.seed, "place", frame.number))),)
        return (delivery,)


class _DelayStage:
    """A stage that delays frames (reorder) or copies of them (duplicate) by a number of frames."""

    def __init__(self, fault: Duplicate | Reorder, switch: Switch) -> None:
        self._fault, self._switch = fault, switch
        self._passed = 0
        self._waiting: list[tuple[int, int, ReplayedFrame]] = []

    def take(self, delivery: ReplayedFrame) -> Sequence[ReplayedFrame]:
        fault, frame = self._fault, delivery.frame
        match fault:
            case Duplicate():
                name, width, frames = "duplicate", "within", fault.within
            case Reorder():
                name, width, frames = "reorder", "window", fault.window
        due = self._due()
        hit = fault.concerns(frame.stream) and chance(fault.seed, name, frame.number) < fault.share
        if hit and self._switch.happens():
            wait = 1 + int(chance(fault.seed, width, frame.number) * frames)
            heapq.heappush(self._waiting, (self._passed + wait, self._passed, delivery))
            return due if isinstance(fault, Reorder) else (delivery, *due)
        return (delivery, *due)

    def _due(self) -> list[ReplayedFrame]:
        self._passed += 1
        found = []
        while self._waiting and self._waiting[0][0] <= self._passed:
            found.append(heapq.heappop(self._waiting)[2])
        return found

    def flush(self) -> Sequence[ReplayedFrame]:
        """Return all delayed frames, in the order of their due positions."""
        found = [delivery for _, _, delivery in sorted(self._waiting)]
        self._waiting.clear()
        return found


class HostileStage(_ImmediateStage):
    """Send a hostile frame after a share of the frames, each kind in turn."""

    def __init__(self, fault: Hostile, switch: Switch) -> None:
        self._fault, self._switch = fault, switch

    def take(self, delivery: ReplayedFrame) -> Sequence[ReplayedFrame]:
        fault, frame = self._fault, delivery.frame
        hit = fault.concerns(frame.stream) and chance(fault.seed, "hostile", frame.number) < fault.share
        if not hit or not self._switch.happens():
            return (delivery,)
        # The switch's count, not one of this connection: a frame that ends the connection must not be sent for ever.
        name = fault.frames[(self._switch.happened - 1) % len(fault.frames)]
        return (delivery, ReplayedFrame(frame, hostile_frame(name, delivery.text, frame.number)))


class _Interrupter:
    """Decides when a connection fault is due."""

    def __init__(self, fault: Interruption, switch: Switch) -> None:
        self._fault, self._switch = fault, switch
        self._frames = 0
        self._since_ns: int | None = None

    def is_due(self, frame: NumberedFrame) -> bool:
        fault = self._fault
        self._frames += 1
        if self._since_ns is None:
            self._since_ns = frame.due_ns
        by_frames = bool(fault.every_frames) and self._frames >= fault.every_frames
        by_time = bool(fault.every_s) and frame.due_ns >= self._since_ns + fault.every_s * 1e9
        if not (by_frames or by_time) or not self._switch.happens():
            return False
        self._frames, self._since_ns = 0, frame.due_ns
        return True


class FaultyLine:
    """The faults of a board on one connection of a market. Changes of the board apply from the next frame on."""

    def __init__(self, board: FaultBoard, market: Market) -> None:
        self._board, self._market = board, market
        self._build()

    @property
    def idle(self) -> bool:
        """Return whether no fault applies, so that frames pass unchanged."""
        return self._version == self._board.version and not self._stages and not self._interrupters

    def take(self, frame: NumberedFrame, text: str) -> Iterator[Step]:
        """Yield the steps for the next frame."""
        if self._version != self._board.version:
            yield from self.flush()
            self._build()
        yield from self._run_stages((ReplayedFrame(frame, text),), self._stages)

    def flush(self) -> Iterator[Step]:
        """Yield the steps for delayed frames; called before a response and at the end of the replay."""
        for number, stage in enumerate(self._stages):
            yield from self._run_stages(stage.flush(), self._stages[number + 1 :])

    def _build(self) -> None:
        board = self._board
        self._version = board.version
        self._stages: list[Stage] = []
        self._interrupters: list[tuple[ConnectionFault, _Interrupter]] = []
        frame_faults = (Silent, Drop, Corrupt, Duplicate, Reorder, Hostile)
        for switch in board.switches_of(self._market, *frame_faults, Cut, Stall, HalfOpen, Shutdown):
            match switch.fault:
                case Silent() as fault:
                    self._stages.append(SilentStage(fault, switch))
                case Drop() as fault:
                    self._stages.append(DropStage(fault, switch))
                case Corrupt() as fault:
                    self._stages.append(CorruptStage(fault, switch))
                case Duplicate() | Reorder() as fault:
                    self._stages.append(_DelayStage(fault, switch))
                case Hostile() as fault:
                    self._stages.append(HostileStage(fault, switch))
                case Cut() | Stall() | HalfOpen() | Shutdown() as fault:
                    self._interrupters.append((fault, _Interrupter(fault, switch)))

    def _run_stages(self, deliveries: Sequence[ReplayedFrame], stages: Sequence[Stage]) -> Iterator[Step]:
        for stage in stages:
            deliveries = [out for delivery in deliveries for out in stage.take(delivery)]
        for delivery in deliveries:
            yield delivery
            for fault, interrupter in self._interrupters:
                if interrupter.is_due(delivery.frame):
                    yield fault


def corrupted(text: str, place: float) -> str:
    """Truncate the text at the fraction `place` (in [0, 1)); append a character that makes it invalid JSON."""
    return f"{text[: 1 + int(place * (len(text) - 1))]}\x1a"
