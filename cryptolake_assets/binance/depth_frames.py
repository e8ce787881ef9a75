"""Depth updates and snapshots of order books, for all markets of Binance. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Diff-Book-Depth-Streams,
and the same pages of COIN-M and Spot. Spot has neither `T` nor `pu`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from cryptolake_assets.binance.control_frames import ControlFrame
from cryptolake_assets.binance.stream_adapter import combined
from cryptolake_assets.binance.stream_type import (
    BookPrice,
    BookQuantity,
    EventStream,
    FrameReader,
    Parsed,
    StreamType,
    Symbol,
    TimeMs,
    UpdateId,
)
from cryptolake_assets.binance.trade_frames import rejected
from cryptolake_assets.model.columns import LEVEL_PATTERNS
from cryptolake_assets.model.events import DepthSnapshotEvent, DepthUpdateEvent, RejectedFrame
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family, Market, Venue

DEPTH: Final = "depth"  # in `CRYPTOLAKE_EXTRA_STREAMS`

_LEVEL: Final = r'\["{}","{}"\]'.format(*LEVEL_PATTERNS)
# One match of all levels costs a tenth of decoding them; the event keeps their bytes.
_are_levels: Final = re.compile(rf"\[(?:{_LEVEL}(?:,{_LEVEL})*+)?\]".encode()).fullmatch
_decode_levels: Final = msgspec.json.Decoder(list[tuple[BookPrice, BookQuantity]]).decode


class _Frame(Struct, tag_field="e", tag="depthUpdate", gc=False):
    time_ms: TimeMs = field(name="E")
    symbol: Symbol = field(name="s")
    first_id: UpdateId = field(name="U")
    final_id: UpdateId = field(name="u")
    bids: Raw = field(name="b")
    asks: Raw = field(name="a")


class _FuturesFrame(_Frame, tag_field="e", tag="depthUpdate", gc=False):
    transaction_time_ms: TimeMs = field(name="T")
    previous_id: UpdateId = field(name="pu")


class _Snapshot(Struct, gc=False):
    last_id: UpdateId = field(name="lastUpdateId")
    bids: Raw
    asks: Raw
    time_ms: TimeMs | None = field(name="E", default=None)
    transaction_time_ms: TimeMs | None = field(name="T", default=None)


_reader = FrameReader(_Frame)
_futures_reader = FrameReader(_FuturesFrame)
_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode


def depth_parser(venue: Venue) -> Callable[[bytes, int], Parsed]:
    """Return the parser of a venue's frames, which takes a frame and its receive time in µs since 1970."""
    reader = _reader if venue.family is Family.SPOT else _futures_reader
    return partial(_parse, reader, venue.exchange)


def _parse(reader: FrameReader, exchange: str, raw: bytes, received_at_us: int) -> Parsed:
    frame = reader.read(raw)
    if isinstance(frame, RejectedFrame | ControlFrame):
        return frame
    levels = _levels(frame.bids, frame.asks)
    if isinstance(levels, str):
        return rejected(raw, levels, msgspec.json.decode(raw))
    if frame.first_id > frame.final_id:
        return rejected(raw, "id_order: the first update id is above the last", msgspec.json.decode(raw))
    is_futures = isinstance(frame, _FuturesFrame)
    return DepthUpdateEvent(
        symbol=frame.symbol,
        event_time=frame.time_ms * 1000,
        transaction_time=frame.transaction_time_ms * 1000 if is_futures else None,
        first_update_id=frame.first_id,
        final_update_id=frame.final_id,
        previous_update_id=frame.previous_id if is_futures else None,
        bids=levels[0],
        asks=levels[1],
        exchange=exchange,
        ingest_ts=received_at_us,
    )


def parse_snapshot(raw: bytes, symbol: str, exchange: str, received_at_us: int) -> DepthSnapshotEvent | RejectedFrame:
    """Parse the REST response of `GET /depth` for a symbol. Never raises."""
    try:
        found = _decode_snapshot(raw)
    except (ValueError, RecursionError) as error:
        return RejectedFrame(raw, f"wrong_shape: {error}"[:200], symbol)
    levels = _levels(found.bids, found.asks)
    if isinstance(levels, str):
        return RejectedFrame(raw, levels, symbol)
    return DepthSnapshotEvent(
        symbol=symbol,
        event_time=_us(found.time_ms),
        transaction_time=_us(found.transaction_time_ms),
        last_update_id=found.last_id,
        bids=levels[0],
        asks=levels[1],
        exchange=exchange,
        ingest_ts=received_at_us,
    )


def _us(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms * 1000


def _levels(*sides: Raw) -> list[Raw] | str:
    """Return the sides in canonical JSON, or the reason why one is invalid."""
    canonical: list[Raw] = []
    for side in sides:
        if _are_levels(side):
            canonical.append(side)
            continue
        try:
            canonical.append(Raw(msgspec.json.encode(_decode_levels(side))))
        except (ValueError, RecursionError) as error:
            return f"levels_format: {error}"
    return canonical


def _stream(family: Family, markets: frozenset[Market], **fields: Any) -> EventStream:
    return EventStream(
        name=DEPTH if family is Family.FUTURES else f"{family}_depth",
        option=DEPTH,
        is_automatic=False,
        family=family,
        markets=markets,
        topic_suffix="depth_updates",
        bronze=FAMILY_TABLES[family].depth_updates,
        identity=("exchange", "symbol", "final_update_id", "first_update_id"),
        address=combined(attrgetter("ws_book_path")),
        parser=depth_parser,
        **fields,
    )


def _snapshots(family: Family, markets: frozenset[Market]) -> StreamType:
    """Return the stream of REST snapshots, which the producer requests for the depth updates."""
    return StreamType(
        name="depth_snapshots" if family is Family.FUTURES else f"{family}_depth_snapshots",
        option=DEPTH,
        is_automatic=False,
        family=family,
        markets=markets,
        topic_suffix="depth_snapshots",
        bronze=FAMILY_TABLES[family].depth_snapshots,
        optional=frozenset({"event_time", "transaction_time"}),
        identity=("exchange", "symbol", "last_update_id"),
        is_followed=False,
    )


SNAPSHOTS_OF_FAMILY = {
    Family.FUTURES: _snapshots(Family.FUTURES, frozenset({Market.USD_M, Market.COIN_M})),
    Family.SPOT: _snapshots(Family.SPOT, frozenset({Market.SPOT})),
}

STREAMS = (
    _stream(
        Family.FUTURES,
        frozenset({Market.USD_M, Market.COIN_M}),
        kinds=("depth@100ms", "depth@0ms", "depth@500ms", "depth"),
    ),
    _stream(
        Family.SPOT,
        frozenset({Market.SPOT}),
        kinds=("depth@100ms", "depth"),
        optional=frozenset({"transaction_time", "previous_update_id"}),
    ),
)
