"""The producer's status file, `<run_dir>/producer.json`: the producer writes it every second, `status` reads it."""

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
    frames: int  # messages received since it was opened
    reconnects: int


class StreamCounts(msgspec.Struct, frozen=True):
    """Frames of one stream by outcome."""

    accepted: int  # converted to events; Kafka has acknowledged all that are not in flight
    rejected: int  # sent to the dead-letter topic
    control: int  # control messages of the exchange, without responses to the producer's own requests

    @property
    def settled(self) -> int:
        """Frames of all three kinds."""
        return self.accepted + self.rejected + self.control


class RejectedSymbol(msgspec.Struct, frozen=True):
    """A symbol with rejected frames and none accepted since."""

    frames: int
    reason: str  # of the latest one


class ProducerStatus(msgspec.Struct, frozen=True):
    """The producer's status. Times are ms since 1970, UTC; counts are since the process started."""

    state: str  # `starting`, `waiting_for_broker`, `streaming`, `draining`, `stopped` or `failed`
    pid: int
    stream: str
    symbols: int
    connections: tuple[ConnectionStatus, ...]
    frames: int  # messages taken from the connections, of any kind
    streams: dict[str, StreamCounts]  # by stream, such as `aggTrade` and `markPrice`
    events_acked: int  # trades that Kafka has acknowledged
    rejected: int  # rejected frames that Kafka has acknowledged on the dead-letter topic
    messages_resent: int  # messages resent after a failure; Silver removes the duplicates
    in_flight: int
    queued_frames: int
    last_event_time_ms: int | None  # trade time of the newest event
    exchange_time_ms: int | None  # exchange clock at the last request
    coverage_to_ms: dict[str, int]  # end of the written coverage per symbol (of the first `MAX_SYMBOLS_SHOWN`)
    coverage_failures: int  # failed coverage writes since the last success
    ids_missing: int  # missing trades of all open gaps
    # Symbols (at most `MAX_SYMBOLS_SHOWN` per stream) whose frames are being rejected.
    rejecting: dict[str, RejectedSymbol]
    stale_symbols: tuple[str, ...]  # at most `MAX_SYMBOLS_SHOWN`
    renewals: int  # connections replaced by a successor
    updated_at_ms: int


def rejecting_problem(settings: Settings) -> str | None:
    """Return the symbols whose frames are being rejected, with counts and reasons; None if there are none."""
    status = read_status(settings)
    if status is None or not status.rejecting:
        return None
    messages = [
        f"{symbol}: {entry.frames:,} frames rejected since the last accepted one ({entry.reason})"
        for symbol, entry in islice(reversed(status.rejecting.items()), NAMED_IN_MESSAGES)
    ]
    omitted = len(status.rejecting) - len(messages)
    return "; ".join(messages) + (f"; and {omitted} more symbols" if omitted > 0 else "")


def status_path(settings: Settings) -> Path:
    """Return the path of the producer's status file."""
    return settings.run_dir / "producer.json"


def write_status(path: Path, status: ProducerStatus) -> None:
    """Replace the file atomically, so that readers never see a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(status)))
    draft.replace(path)


def read_status(settings: Settings) -> ProducerStatus | None:
    """Return the last written status; None if the file is missing or of another version."""
    try:
        return msgspec.json.decode(status_path(settings).read_bytes(), type=ProducerStatus)
    except (OSError, msgspec.MsgspecError):
        return None
