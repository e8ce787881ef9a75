"""Fault switches of the replay exchange as typed values, and the state of the active ones. Pure.

Faults are given as JSON, `{"kind": "drop", "share": 0.01}` or a list: in `CRYPTOLAKE_REPLAY_FAULTS`, or by `POST
/replay/faults` at run time. They affect the frames that clients receive, never the emitted ledger; REST still returns
all trades. The seed and the frame's index in the capture decide each fault, so that a replay fails at the same places
every time.
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
from cryptolake_assets.model.hostile_frames import HOSTILE_FRAMES
from cryptolake_assets.model.markets import Market

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
FrameWindow = Annotated[int, Meta(ge=1, le=100_000)]
IdRange = tuple[Count, Count]  # ids of trades or aggregates, inclusive


class Fault(msgspec.Struct, tag_field="kind", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of all faults."""

    times: Count = 0  # maximum number of occurrences; 0: unlimited while it is on
    seed: Count = 0
    market: Market | None = None  # the affected market; None: all

    def is_of(self, market: Market) -> bool:
        return self.market in (None, market)


class FrameFault(Fault, frozen=True, kw_only=True):
    """A fault of frames: of the given streams (`btcusdt@aggTrade`), or of all."""

    streams: tuple[str, ...] = ()

    def concerns(self, stream: str | None) -> bool:
        return not self.streams or stream in self.streams


class Interruption(Fault, frozen=True, kw_only=True):
    """A connection fault, after every `every_frames` frames or `every_s` seconds of the exchange clock.

    Both count from the connection's first frame, or from the last occurrence.
    """

    every_frames: Count = 0
    every_s: Seconds = 0.0

    def __post_init__(self) -> None:
        if not self.every_frames and not self.every_s:
            raise ValueError("`every_frames` or `every_s` (seconds of the exchange's clock) is required")


class Cut(Interruption, tag="cut", frozen=True, kw_only=True):
    """Aborts the connection without a closing handshake; its queued frames are lost."""


class Stall(Interruption, tag="stall", frozen=True, kw_only=True):
    """Keeps the connection open but sends nothing (no frame, response, ping or pong) for `for_s` wall seconds.

    Queued frames are sent afterwards if the client is still connected.
    """

    for_s: PositiveSeconds


class HalfOpen(Interruption, tag="half_open", frozen=True, kw_only=True):
    """Abandons the connection as if the exchange's host had vanished: nothing is sent or read again, not even a close.

    The socket stays open until the client gives up, or until the exchange's own limit for missing pongs.
    """


class Shutdown(Interruption, tag="shutdown", frozen=True, kw_only=True):
    """Announces the end of the connection (`serverShutdown`) and closes it `notice_s` wall seconds later.

    Frames continue until then.
    """

    notice_s: Seconds = 10.0


class Silent(FrameFault, tag="silent", frozen=True, kw_only=True):
    """Acknowledges subscriptions but sends no frames.

    It starts after `after_frames` frames of a stream on a connection and lasts `for_s` seconds of the exchange clock
    (0: the life of the connection). Each stream of each connection counts once in `times`.
    """

    after_frames: Count = 0
    for_s: Seconds = 0.0


class Duplicate(FrameFault, tag="duplicate", frozen=True, kw_only=True):
    """Sends a share of the frames a second time, at most `within` frames later."""

    share: Share
    within: FrameWindow = 50


class Reorder(FrameFault, tag="reorder", frozen=True, kw_only=True):
    """Delays a share of the frames by 1 to `window` frames. Delayed frames are sent before any response."""

    share: Share
    window: FrameWindow = 10


class Drop(FrameFault, tag="drop", frozen=True, kw_only=True):
    """Drops frames: those of the `ids`, and with probability `share` a frame and up to `run` - 1 frames after it."""

    share: Share = 0.0
    run: FrameWindow = 1
    ids: tuple[IdRange, ...] = ()

    def __post_init__(self) -> None:
        if not self.share and not self.ids:
            raise ValueError("`share` or `ids` (such as [[100, 120]]) is required")


class Corrupt(FrameFault, tag="corrupt", frozen=True, kw_only=True):
    """Sends a share of the frames garbled, never as valid JSON, so that they cannot be read as another trade."""

    share: Share


class Hostile(FrameFault, tag="hostile", frozen=True, kw_only=True):
    """Sends a frame that an attacker or a broken exchange may send after a share of the frames.

    `frames` are names of `HOSTILE_FRAMES`, sent in turn; by default all.
    """

    share: Share
    frames: tuple[str, ...] = HOSTILE_FRAMES

    def __post_init__(self) -> None:
        if not self.frames or not set(self.frames) <= set(HOSTILE_FRAMES):
            raise ValueError(f"`frames` must be some of {', '.join(HOSTILE_FRAMES)}")


class Rotation(Fault, tag="rotation", frozen=True, kw_only=True):
    """Closes connections after `connection_life_s` wall seconds instead of the exchange's 24 hours."""

    connection_life_s: PositiveSeconds


class RestFault(Fault, frozen=True, kw_only=True):
    """A fault of `times` REST requests, or of those within `for_s` wall seconds from the first.

    It affects paths that start with one of `paths`, or all.
    """

    for_s: Seconds = 0.0
    paths: tuple[str, ...] = ()

    def concerns(self, path: str) -> bool:
        return not self.paths or path.startswith(self.paths)


class RestLimit(RestFault, tag="rest_limit", frozen=True, kw_only=True):
    """Rejects REST requests as the exchange's rate limits do."""

    status: Literal[418, 429] = 429
    retry_after_s: Annotated[int, Meta(ge=0, le=3 * 86_400)] = 1


class RestHtml(RestFault, tag="rest_html", frozen=True, kw_only=True):
    """Responds to REST requests with a page of HTML, as a firewall or a proxy does, with any `status`."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200


class RestReset(RestFault, tag="rest_reset", frozen=True, kw_only=True):
    """Resets the connections of REST requests without a response."""


class ClockSkew(Fault, tag="clock_skew", frozen=True, kw_only=True):
    """Shifts the REST clock by `offset_s` seconds from the frames' times; the REST history keeps its times."""

    offset_s: Annotated[float, Meta(ge=-86_400, le=86_400)]


class SourceFaultKind(StrEnum):
    """A failure of a batch source."""

    RATE_LIMIT = "rate_limit"
    HTML = "html"
    OTHER_SHAPE = "other_shape"
    SERVER_ERROR = "server_error"
    SLOW = "slow"


class SourceFault(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A fault of the next `times` requests of a batch source; several faults apply one after the other.

    `seconds` is the `Retry-After`, or the delay of a slow response.
    """

    source: Literal["fear_greed", "coingecko", "futures_funding", "futures_open_interest"]
    kind: SourceFaultKind
    times: Count = 1
    seconds: Count = 1


_FrameFault = Silent | Duplicate | Reorder | Drop | Corrupt | Hostile
_RestFault = RestLimit | RestHtml | RestReset
_ExchangeFault = Cut | Stall | HalfOpen | Shutdown | _FrameFault | Rotation | _RestFault | ClockSkew
ReplayFault = _ExchangeFault | SourceFault


def parse_faults(text: str | bytes) -> tuple[ReplayFault, ...]:
    """Parse a fault or a list of faults from JSON; none for an empty text. Raises `SettingsError`."""
    if not text.strip():
        return ()
    try:
        found = msgspec.json.decode(text, type=dict[str, Any] | list[dict[str, Any]])
        return tuple(_fault(item) for item in (found if isinstance(found, list) else [found]))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SettingsError(
            f"replay exchange: not a fault switch ({error}). Give a JSON object such as "
            '{"kind": "cut", "every_frames": 1000}, or a list of them; docs/fault-drills.md lists the switches.'
        ) from None


def _fault(item: dict[str, Any]) -> ReplayFault:
    kind: Any = SourceFault if "source" in item else _ExchangeFault
    fault: ReplayFault = msgspec.convert(item, kind)
    return fault


def chance(seed: int, *key: object) -> float:
    """Return a deterministic pseudorandom number in [0, 1) for the arguments."""
    return int.from_bytes(blake2b(repr((seed, *key)).encode(), digest_size=6).digest()) / 2**48


@dataclass(slots=True)
class Switch:
    """An active fault and its number of occurrences."""

    fault: ReplayFault
    happened: int = 0
    began_s: float | None = None

    def happens(self) -> bool:
        """Count an occurrence and return True; return False once `times` is reached."""
        if self.fault.times and self.happened >= self.fault.times:
            return False
        self.happened += 1
        return True

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = msgspec.to_builtins(self.fault)
        return described | {"happened": self.happened}


@dataclass(slots=True)
class FaultBoard:
    """The active faults, in the order they were switched on."""

    switches: list[Switch] = field(default_factory=list)
    version: int = 0  # changes with every change of the board

    def switch_on(self, faults: Iterable[ReplayFault]) -> None:
        self.switches = [*self.switches, *(Switch(fault) for fault in faults)]
        self.version += 1

    def switch_off(self, kind: str | None = None) -> None:
        """Switch off the faults of a kind (None: all) and discard their counts."""
        self.switches = [switch for switch in self.switches if kind not in (None, switch.describe()["kind"])]
        self.version += 1

    def switches_of(self, market: Market, *types: type[Fault]) -> Sequence[Switch]:
        """Return the market's switches of these types, grouped by type."""
        return [
            switch
            for kind in types
            for switch in self.switches
            if isinstance(switch.fault, kind) and switch.fault.is_of(market)
        ]

    def rest_fault(self, market: Market, path: str, now_s: float) -> RestLimit | RestHtml | RestReset | None:
        """Return the fault that applies to a request now, if any, and count it."""
        for switch in self.switches_of(market, RestLimit, RestHtml, RestReset):
            fault = switch.fault
            if not isinstance(fault, RestLimit | RestHtml | RestReset) or not fault.concerns(path):
                continue
            if switch.began_s is None:
                switch.began_s = now_s
            if (not fault.for_s or now_s < switch.began_s + fault.for_s) and switch.happens():
                return fault
        return None

    def clock_offset_ms(self, market: Market) -> int:
        """Return the shift of the REST clock, and count the reading."""
        skews = [switch for switch in self.switches_of(market, ClockSkew) if switch.happens()]
        return sum(round(switch.fault.offset_s * 1_000) for switch in skews if isinstance(switch.fault, ClockSkew))

    def source_fault(self, source: str) -> SourceFault | None:
        """Return the fault of a batch source's next request, if any, and count it."""
        for switch in self.switches:
            fault = switch.fault
            if isinstance(fault, SourceFault) and fault.source == source and switch.happens():
                return fault
        return None

    def shortest_life_s(self, market: Market) -> float:
        """Return the shortest connection life of the active faults; infinite without one."""
        faults = (switch.fault for switch in self.switches_of(market, Rotation))
        return min((fault.connection_life_s for fault in faults if isinstance(fault, Rotation)), default=math.inf)

    def life_is_over(self, market: Market, lived_s: float, usual_life_s: float) -> bool:
        """Return whether a connection of this age must be closed now; count a fault that closes it."""
        for switch in self.switches_of(market, Rotation):
            fault = switch.fault
            if isinstance(fault, Rotation) and lived_s >= fault.connection_life_s and switch.happens():
                return True
        return lived_s >= usual_life_s

    def describe(self) -> list[dict[str, Any]]:
        """Return each fault's parameters and its `happened` count."""
        return [switch.describe() for switch in self.switches]
