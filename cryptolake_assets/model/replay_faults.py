"""The replay exchange's fault switches as typed values, and the board on which they stand. Pure.

A fault is said as JSON, `{"kind": "drop", "share": 0.01}`, one or a list of them: in `CRYPTOLAKE_REPLAY_FAULTS`, or by
`POST /replay/faults` at run time. It concerns what clients are sent, never what was emitted: REST tells it all the
same. Each is decided by its seed and by the number of the frame in the capture, so that a replay is hit at the same
places every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cryptolake_assets.errors import SettingsError

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
FrameWindow = Annotated[int, Meta(ge=1, le=100_000)]
IdRange = tuple[Count, Count]
"""Ids of trades or aggregates, both ends included."""


class Fault(msgspec.Struct, tag_field="kind", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What all faults have."""

    times: Count = 0
    """How often it happens at most; 0: for as long as it is switched on."""
    seed: Count = 0


class FrameFault(Fault, frozen=True, kw_only=True):
    """A fault of frames: of those of the named streams (`btcusdt@aggTrade`), or of all."""

    streams: tuple[str, ...] = ()

    def concerns(self, stream: str | None) -> bool:
        return not self.streams or stream in self.streams


class Interruption(Fault, frozen=True, kw_only=True):
    """A fault of a connection, behind every so many of its frames, or once the exchange's clock has gone on by so many
    seconds since its first frame (or since the last time)."""

    every_frames: Count = 0
    every_s: Seconds = 0.0

    def __post_init__(self) -> None:
        if not self.every_frames and not self.every_s:
            raise ValueError("say when: `every_frames` or `every_s` (seconds of the exchange's clock)")


class Cut(Interruption, tag="cut", frozen=True, kw_only=True):
    """The connection is aborted, without a closing handshake; what was queued for it is lost."""


class Stall(Interruption, tag="stall", frozen=True, kw_only=True):
    """The connection stays open, and for so many seconds of our clock nothing comes on it: no frame, no answer, no
    ping or pong. What was queued comes afterwards, if the client is still there."""

    for_s: PositiveSeconds


class Shutdown(Interruption, tag="shutdown", frozen=True, kw_only=True):
    """The exchange announces the end of the connection (`serverShutdown`), and closes it `notice_s` seconds of our
    clock later. Frames go on coming until then."""

    notice_s: Seconds = 10.0


class Silent(FrameFault, tag="silent", frozen=True, kw_only=True):
    """Subscriptions are acknowledged, and no frame comes on them: from the stream's frame number `after_frames` of a
    connection on, for `for_s` seconds of the exchange's clock (0: as long as the connection lives). Each stream of
    each connection counts once in `times`."""

    after_frames: Count = 0
    for_s: Seconds = 0.0


class Duplicate(FrameFault, tag="duplicate", frozen=True, kw_only=True):
    """A share of the frames is sent a second time, at most `within` frames later."""

    share: Share
    within: FrameWindow = 50


class Reorder(FrameFault, tag="reorder", frozen=True, kw_only=True):
    """A share of the frames is held back and comes 1 to `window` frames later. An answer overtakes nothing: what is
    held back comes before it."""

    share: Share
    window: FrameWindow = 10


class Drop(FrameFault, tag="drop", frozen=True, kw_only=True):
    """Frames are not sent: those of the ids, and with the chance `share` a frame and up to `run` - 1 behind it."""

    share: Share = 0.0
    run: FrameWindow = 1
    ids: tuple[IdRange, ...] = ()

    def __post_init__(self) -> None:
        if not self.share and not self.ids:
            raise ValueError("say what: a `share`, or `ids` such as [[100, 120]]")


class Corrupt(FrameFault, tag="corrupt", frozen=True, kw_only=True):
    """A share of the frames is sent garbled in place of what was recorded, and never as JSON: for no other trade."""

    share: Share


class Rotation(Fault, tag="rotation", frozen=True, kw_only=True):
    """Connections live so many seconds of our clock, instead of the exchange's 24 hours, and are then closed."""

    connection_life_s: PositiveSeconds


class RestLimit(Fault, tag="rest_limit", frozen=True, kw_only=True):
    """REST refuses: `times` requests, or those of `for_s` seconds of our clock from the first on; paths that begin with
    one of `paths`, or all."""

    status: Literal[418, 429] = 429
    retry_after_s: Annotated[int, Meta(ge=0, le=3 * 86_400)] = 1
    for_s: Seconds = 0.0
    paths: tuple[str, ...] = ()

    def concerns(self, path: str) -> bool:
        return not self.paths or path.startswith(self.paths)


class SourceFaultKind(StrEnum):
    """What a batch source does instead of answering."""

    RATE_LIMIT = "rate_limit"
    HTML = "html"
    OTHER_SHAPE = "other_shape"
    SERVER_ERROR = "server_error"
    SLOW = "slow"


class SourceFault(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The next `times` requests of a batch source meet it, one fault after the other; `seconds` is `Retry-After`, or
    how slow the answer is."""

    source: Literal["fear_greed", "coingecko", "futures_funding", "futures_open_interest"]
    kind: SourceFaultKind
    times: Count = 1
    seconds: Count = 1


_ExchangeFault = Cut | Stall | Shutdown | Silent | Duplicate | Reorder | Drop | Corrupt | Rotation | RestLimit
ReplayFault = _ExchangeFault | SourceFault


def parse_faults(text: str | bytes) -> tuple[ReplayFault, ...]:
    """One fault or a list of them as JSON; nothing for an empty text. Raises `SettingsError`."""
    if not text.strip():
        return ()
    try:
        found = msgspec.json.decode(text, type=dict[str, Any] | list[dict[str, Any]])
        return tuple(_fault(item) for item in (found if isinstance(found, list) else [found]))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SettingsError(
            f"replay exchange: not a fault switch ({error}). Give a JSON object such as "
            '{"kind": "cut", "every_frames": 1000}, or a list of them; docs/operations.md lists the switches.'
        ) from None


def _fault(item: dict[str, Any]) -> ReplayFault:
    kind: Any = SourceFault if "source" in item else _ExchangeFault
    fault: ReplayFault = msgspec.convert(item, kind)
    return fault


def chance(seed: int, *what: object) -> float:
    """A number in [0, 1) that is the same whenever the same is asked."""
    return int.from_bytes(blake2b(repr((seed, *what)).encode(), digest_size=6).digest()) / 2**48


@dataclass(slots=True)
class Switch:
    """A fault that is on, and how often it has happened."""

    fault: ReplayFault
    happened: int = 0
    began_s: float | None = None

    def happens(self) -> bool:
        """Counts it, unless it has happened as often as it may."""
        if self.fault.times and self.happened >= self.fault.times:
            return False
        self.happened += 1
        return True

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = msgspec.to_builtins(self.fault)
        return described | {"happened": self.happened}


@dataclass(slots=True)
class FaultBoard:
    """What is switched on, in the order in which it came."""

    switches: list[Switch] = field(default_factory=list)
    version: int = 0
    """Another one after every change."""

    def switch_on(self, faults: Iterable[ReplayFault]) -> None:
        self.switches = [*self.switches, *(Switch(fault) for fault in faults)]
        self.version += 1

    def switch_off(self) -> None:
        """All of them, with their counts."""
        self.switches = []
        self.version += 1

    def switches_of(self, *types: type[msgspec.Struct]) -> Sequence[Switch]:
        """The switches of these types, kind by kind."""
        return [switch for kind in types for switch in self.switches if isinstance(switch.fault, kind)]

    def rest_limit(self, path: str, now_s: float) -> RestLimit | None:
        """The limit that a request meets now, if any; counts it."""
        for switch in self.switches:
            fault = switch.fault
            if not isinstance(fault, RestLimit) or not fault.concerns(path):
                continue
            if switch.began_s is None:
                switch.began_s = now_s
            if (not fault.for_s or now_s < switch.began_s + fault.for_s) and switch.happens():
                return fault
        return None

    def source_fault(self, source: str) -> SourceFault | None:
        """What the next request of a batch source meets, if anything; counts it."""
        for switch in self.switches:
            fault = switch.fault
            if isinstance(fault, SourceFault) and fault.source == source and switch.happens():
                return fault
        return None

    @property
    def shortest_life_s(self) -> float:
        """Of a connection, by the faults that are on; infinite without one."""
        lives = [switch.fault.connection_life_s for switch in self.switches if isinstance(switch.fault, Rotation)]
        return min(lives, default=math.inf)

    def life_is_over(self, lived_s: float, usual_life_s: float) -> bool:
        """Whether a connection that has lived so long is to be closed now; counts it."""
        for switch in self.switches:
            fault = switch.fault
            if isinstance(fault, Rotation) and lived_s >= fault.connection_life_s and switch.happens():
                return True
        return lived_s >= usual_life_s

    def describe(self) -> list[dict[str, Any]]:
        """Each fault with what it was given, and `happened`."""
        return [switch.describe() for switch in self.switches]
