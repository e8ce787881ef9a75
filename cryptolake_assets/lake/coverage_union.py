"""Fold coverage claims into the stored rows of a stream: a union of proven intervals, few rows per symbol. Pure.

Only overlapping intervals are joined: a trade that was in flight at the end of one is received within the other.

A row counts once Bronze holds every record below its Kafka offset, and a joined row needs the highest offset of its
parts. Therefore the newest part of a union stays in several rows, whose ends lie closer together the newer they are:
while Bronze lags by x seconds, all but about the last 2.5x seconds count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.settings import Settings

HORIZON_MS: Final = 600_000  # rows that end earlier than this before the newest one are joined completely
CLOSENESS: Final = 2 / 3  # ends are thinned out to about this share of their age

NO_BARRIER_AFTER_MS: Final = 60_000  # barrier rows older than this are dropped where ids cover them at any offset
OVERLAP_MARGIN_MS: Final = 60_000

_Piece = tuple[int, int, int]  # from and to (ms), Kafka offset


def overlap_ms(settings: Settings) -> int:
    """Return how far consecutive rows of a union overlap; readers shorten each row by the watermark's grace."""
    return settings.watermark_grace_ms + OVERLAP_MARGIN_MS


def fold(rows: Iterable[CoverageRow], claims: Iterable[CoverageRow], overlap_ms: int) -> list[CoverageRow]:
    """Return the union of the stored rows and the claims of one (exchange, symbol, stream), in order.

    All are of the stream, not of the archive. `overlap_ms` is how far consecutive rows of a union overlap: at least the
    watermark's grace, by which readers shorten each row.
    """
    stored, claimed = _by_source(rows), _by_source(claims)
    newest_ms = max((piece[1] for pieces in (*stored.values(), *claimed.values()) for piece in pieces), default=0)
    united = {
        source: _joined(_trimmed(stored.get(source, {}), claimed.get(source, {}), overlap_ms), newest_ms)
        for source in stored.keys() | claimed.keys()
    }
    result: list[CoverageRow] = []
    for (partition, evidence), pieces in united.items():
        if evidence is Evidence.BARRIER:
            # Ids are the stronger evidence: what they cover needs no barrier.
            by_ids = united.get((partition, Evidence.IDS), [])
            pieces = [part for piece in pieces for part in _outside(piece, by_ids, newest_ms, overlap_ms)]
        known = {**claimed.get((partition, evidence), {}), **stored.get((partition, evidence), {})}
        template = max(known.values(), key=lambda row: row.connected_to_ms)
        result += [known.get(piece) or _row(template, piece) for piece in pieces]
    return sorted(result, key=lambda row: (row.connected_from_ms, row.connected_to_ms))


def _by_source(rows: Iterable[CoverageRow]) -> dict[tuple[int | None, Evidence], dict[_Piece, CoverageRow]]:
    found: defaultdict[tuple[int | None, Evidence], dict[_Piece, CoverageRow]] = defaultdict(dict)
    for row in rows:
        piece = row.connected_from_ms, row.connected_to_ms, row.kafka_offset or 0
        found[row.kafka_partition, row.evidence or Evidence.BARRIER][piece] = row
    return found


def _row(template: CoverageRow, piece: _Piece) -> CoverageRow:
    from_ms, to_ms, offset = piece
    return replace(template, connected_from_ms=from_ms, connected_to_ms=to_ms, kafka_offset=offset)


def _outside(piece: _Piece, others: Iterable[_Piece], newest_ms: int, overlap_ms: int) -> list[_Piece]:
    """Return the parts of the piece that no other covers at the same or a lower offset; at any, if the piece is old."""
    is_old = newest_ms - piece[1] >= NO_BARRIER_AFTER_MS
    return _difference(piece, [other for other in others if is_old or other[2] <= piece[2]], overlap_ms)


def _difference(piece: _Piece, others: Iterable[_Piece], overlap_ms: int) -> list[_Piece]:
    """Return the parts of the piece outside all others, each extended by `overlap_ms` within the piece."""
    from_ms, to_ms, offset = piece
    parts = [(from_ms, to_ms)]
    for start_ms, end_ms, _ in others:
        if start_ms < to_ms and end_ms > from_ms:
            cut = [((begin, min(end, start_ms)), (max(begin, end_ms), end)) for begin, end in parts]
            parts = [part for both in cut for part in both if part[0] < part[1]]
    return [(max(from_ms, begin - overlap_ms), min(to_ms, end + overlap_ms), offset) for begin, end in parts]


def _trimmed(stored: Collection[_Piece], claimed: Collection[_Piece], overlap_ms: int) -> list[_Piece]:
    """Return the pieces by their ends; none covers what another covers at a lower offset, except for the overlap."""
    # A producer's claims have higher offsets than all stored pieces, which then stay; after a reset topic they do not.
    in_order = min((piece[2] for piece in claimed), default=0) >= max((piece[2] for piece in stored), default=0)
    kept, new = (list(stored), claimed) if in_order else ([], [*stored, *claimed])
    for piece in sorted(new, key=lambda piece: (piece[2], piece[0] - piece[1])):
        kept += _difference(piece, kept, overlap_ms)
    return sorted(kept, key=lambda piece: (piece[1], piece[0]))


def _joined(pieces: Sequence[_Piece], newest_ms: int) -> list[_Piece]:
    """Return the pieces without the ends that no reader needs: an overlapping later piece takes over their time."""
    kept: list[_Piece] = []
    for piece, earlier in zip_longest(reversed(pieces), list(reversed(pieces))[1:]):
        later = kept[-1] if kept else None
        if later is not None and _overlap(piece, later) and _is_needless(piece, earlier, later, newest_ms):
            kept[-1] = min(piece[0], later[0]), later[1], max(piece[2], later[2])
        else:
            kept.append(piece)
    return kept


def _is_needless(piece: _Piece, earlier: _Piece | None, later: _Piece, newest_ms: int) -> bool:
    """Return whether the ends of `earlier` and `later` are close enough, for their age, to drop that of `piece`."""
    if piece[2] == later[2] or newest_ms - later[1] >= HORIZON_MS:
        return True
    if earlier is None or not _overlap(earlier, piece):
        return False
    return later[1] - earlier[1] <= (newest_ms - piece[1]) * CLOSENESS


def _overlap(piece: _Piece, later: _Piece) -> bool:
    return piece[1] > later[0]
