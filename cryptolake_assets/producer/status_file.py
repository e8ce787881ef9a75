"""The producer's progress file, `<run_dir>/producer.json`: written by the producer every second, read by `status`."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from cryptolake_assets.settings import Settings

MAX_SYMBOLS_SHOWN: Final = 200
NAMED_IN_MESSAGES: Final = 5


class ConnectionStatus(msgspec.Struct, frozen=True):
    """One WebSocket connection."""

    name: str
    state: str
    symbols: int
    frames: int
    """Messages received since it was opened."""
    reconnects: int


class StreamCounts(msgspec.Struct, frozen=True):
    """Frames of one stream by what became of them."""

    accepted: int
    """Became events; Kafka has acknowledged all of them but those in flight."""
    rejected: int
    """Went to the dead-letter topic."""
    control: int
    """Control messages of the exchange; answers to the producer's own requests are not counted."""

    @property
    def settled(self) -> int:
        """Frames of all three kinds."""
        return self.accepted + self.rejected + self.control


class RejectedSymbol(msgspec.Struct, frozen=True):
    """A symbol of which frames were rejected and none accepted since."""

    frames: int
    reason: str
    """Of the latest one."""


class ProducerStatus(msgspec.Struct, frozen=True):
    """What the producer says of itself. Times are ms since 1970, UTC; counts are since the process started."""

    state: str
    """`starting`, `waiting_for_broker`, `streaming`, `draining`, `stopped` or `failed`."""
    pid: int
    stream: str
    symbols: int
    connections: tuple[ConnectionStatus, ...]
    frames: int
    """Messages taken from the connections, of any kind."""
    streams: dict[str, StreamCounts]
    """By stream, such as `aggTrade` and `markPrice`."""
    events_acked: int
    """Trades that Kafka has acknowledged."""
    rejected: int
    """Refused frames that Kafka has acknowledged on the dead-letter topic."""
    repeats_sent: int
    """Messages sent again after a failure; what of them Kafka holds twice, Silver counts once."""
    in_flight: int
    queued_frames: int
    last_event_time_ms: int | None
    """Trade time of the newest event."""
    exchange_time_ms: int | None
    """The exchange's clock when it was last asked."""
    coverage_to_ms: dict[str, int]
    """Per symbol (of the first `MAX_SYMBOLS_SHOWN`) how far the coverage reaches that was written."""
    coverage_failures: int
    """Failed writes of coverage since the last good one."""
    ids_missing: int
    """Trades that did not come, of all open gaps."""
    rejecting: dict[str, RejectedSymbol]
    """Symbols (at most `MAX_SYMBOLS_SHOWN` of a stream) of which nothing is accepted at the moment."""
    silent_symbols: tuple[str, ...]
    """Symbols (at most `MAX_SYMBOLS_SHOWN`) that are quiet for longer than their own rate explains."""
    renewals: int
    """Connections that were relieved by a new one beside them."""
    updated_at_ms: int


def rejecting_problem(settings: Settings) -> str | None:
    """Return which symbols the producer accepts nothing of at the moment, with counts and reasons; None without any."""
    status = read_status(settings)
    if status is None or not status.rejecting:
        return None
    named = [
        f"{symbol}: {known.frames:,} frames rejected since the last accepted one ({known.reason})"
        for symbol, known in islice(reversed(status.rejecting.items()), NAMED_IN_MESSAGES)
    ]
    more = len(status.rejecting) - len(named)
    return "; ".join(named) + (f"; and {more} more symbols" if more > 0 else "")


def status_path(settings: Settings) -> Path:
    """Where the producer writes its progress."""
    return settings.run_dir / "producer.json"


def write_status(path: Path, status: ProducerStatus) -> None:
    """Replaces the file at once, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(status)))
    draft.replace(path)


def read_status(settings: Settings) -> ProducerStatus | None:
    """The progress as last written; None when there is none (or of another version)."""
    try:
        return msgspec.json.decode(status_path(settings).read_bytes(), type=ProducerStatus)
    except (OSError, msgspec.MsgspecError):
        return None
