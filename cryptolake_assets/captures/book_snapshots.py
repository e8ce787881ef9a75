"""REST snapshots of order books in captures.

A recorder writes a snapshot as a frame of the stream `<symbol>@depthSnapshot`. In other recordings it is a bare
response without a stream name, and on USD-M and Spot without a symbol: its update id then tells the symbol.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from cryptolake_assets.captures.reader import CapturedFrame, read_frames
from cryptolake_assets.model.symbols import in_capitals, stream_name

SNAPSHOT_KIND: Final = "depthSnapshot"
_MARK: Final = '"lastUpdateId"'
_MARK_CHARS: Final = 160  # within which a snapshot has its mark
_DEPTH_EVENT: Final = '"depthUpdate"'


class RecordedSnapshot(NamedTuple):
    """A response of `GET /depth`."""

    symbol: str
    receive_time_ns: int
    body: str


class _Update(Struct):
    e: str = ""
    s: str = ""
    U: int = 0
    u: int = 0


class _Frame(_Update):
    stream: str = ""
    data: Raw = Raw()  # with `Raw | None`, msgspec would reject every object
    lastUpdateId: int | None = None
    symbol: str = ""


_decode = msgspec.json.Decoder(_Frame).decode
_decode_update = msgspec.json.Decoder(_Update).decode


def snapshot_frame(symbol: str, body: bytes) -> bytes:
    """Return the frame of a snapshot, as recorders write it."""
    return b'{"stream":%s,"data":%s}' % (msgspec.json.encode(stream_name(symbol, SNAPSHOT_KIND)), body)


def read_snapshots(directory: Path) -> Iterator[RecordedSnapshot]:
    """Yield the snapshots of a directory by receive time. Raises `CaptureError` if it cannot be read.

    A snapshot without a symbol belongs to the only symbol with depth updates, or to the one whose update contains its
    id; it is skipped if there is none.
    """
    unnamed: list[tuple[CapturedFrame, int, str]] = []
    symbols: set[str] = set()
    for frame in read_frames(directory):
        head = frame.raw[:_MARK_CHARS]
        if _MARK in head:
            found = _snapshot(frame)
            if found is None:
                continue
            symbol, last_id, body = found
            if symbol:
                yield RecordedSnapshot(symbol, frame.receive_time_ns, body)
            else:
                unnamed.append((frame, last_id, body))
        elif _DEPTH_EVENT in head and len(symbols) < 2:
            update = _update(frame)
            if update is not None:
                symbols.add(update.s)
    if not unnamed:
        return
    owners = _owners(directory, [last_id for _, last_id, _ in unnamed]) if len(symbols) > 1 else {}
    for frame, last_id, body in unnamed:
        symbol = next(iter(symbols)) if len(symbols) == 1 else owners.get(last_id, "")
        if symbol:
            yield RecordedSnapshot(symbol, frame.receive_time_ns, body)


def _snapshot(frame: CapturedFrame) -> tuple[str, int, str] | None:
    """Return symbol (empty if unknown), last update id and body."""
    try:
        envelope = _decode(frame.raw)
        if not (body := bytes(envelope.data)):
            if envelope.lastUpdateId is None:
                return None
            return envelope.symbol, envelope.lastUpdateId, frame.raw
        if envelope.stream.partition("@")[2] != SNAPSHOT_KIND:
            return None
        found = _decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if found.lastUpdateId is None:
        return None
    return in_capitals(envelope.stream.partition("@")[0]), found.lastUpdateId, body.decode()


def _update(frame: CapturedFrame) -> _Update | None:
    try:
        envelope = _decode(frame.raw)
        update = _decode_update(envelope.data) if bytes(envelope.data) else envelope
    except (msgspec.MsgspecError, RecursionError):
        return None
    return update if update.e == "depthUpdate" and update.s else None


def _owners(directory: Path, last_ids: list[int]) -> dict[int, str]:
    """Return the symbol of each snapshot's id: that of the update which contains it."""
    owners: dict[int, str] = {}
    for frame in read_frames(directory):
        if _DEPTH_EVENT in frame.raw[:_MARK_CHARS] and (update := _update(frame)) is not None:
            for last_id in last_ids:
                if update.U <= last_id <= update.u:
                    owners[last_id] = update.s
    return owners
