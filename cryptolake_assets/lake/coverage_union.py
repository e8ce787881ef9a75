"""Fold coverage claims into the stored rows of a stream: a union of proven intervals, few rows per symbol. Pure.

Readers shorten each row by the watermark's grace, so the union is that of the shortened rows: it covers exactly what
its claims cover. A row counts once Bronze holds every record below its Kafka offset, and a joined row needs the highest
offset of its parts. Therefore the newest day of a union stays in several rows, whose ends lie closer together the newer
they are: while Bronze lags by x seconds, all but about the last 2.5x seconds count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.settings import Settings

HORIZON_MS: Final = 86_400_000  # rows that end earlier than this before the newest one are joined completely
CLOSENESS: Final = 2 / 3  # ends are thinned out to about this share of their age
NO_BARRIER_AFTER_MS: Final = 60_000  # older barrier rows are dropped where ids cover them, also at a higher offset
OVERLAP_MARGIN_MS: Final = 60_000

_Piece = tuple[int, int, int]  # from (ms), end without the grace (ms), Kafka offset
_Source = tuple[int | None, Evidence]  # Kafka partition, evidence


def overlap_ms(settings: Settings) -> int:
    """Return how far a claim that continues a written one reaches back into it: at least the watermark's grace."""
    return settings.watermark_grace_ms + OVERLAP_MARGIN_MS


def fold(rows: Iterable[CoverageRow], claims: Iterable[CoverageRow], grace_ms: int) -> list[CoverageRow]:
    """Return the union of the stored rows and the claims of one (exchange, symbol, stream), in order.

    All are of the stream, not of the archive. `grace_ms` is the watermark's grace, by which readers shorten each row.
    """
    rows, claims = list(rows), list(claims)
    stored, claimed = _by_source(rows, grace_ms), _by_source(claims, grace_ms)
    newest_ms = max((piece[1] for pieces in (*stored.values(), *claimed.values()) for piece in pieces), default=0)
    united: dict[_Source, list[_Piece]] = {}
    result: list[CoverageRow] = []
    # Ids first: they are the stronger evidence, and what they cover needs no barrier.
    for source in sorted(stored.keys() | claimed.keys(), key=lambda each: (each[1] is not Evidence.IDS, each[0] or 0)):
        partition, evidence = source
        # Offsets above the newest claim's are of an earlier topic: Bronze may never reach them again.
        limit = max((row.kafka_offset or 0 for row in claims if row.kafka_partition == partition), default=-1)
        parts = [set(stored.get(source, ())), set(claimed.get(source, ()))]
        if evidence is Evidence.BARRIER and (by_ids := united.get((partition, Evidence.IDS))):
            parts = [{rest for piece in found for rest in _outside(piece, by_ids, newest_ms, limit)} for found in parts]
        united[source] = _joined(_trimmed(*parts), newest_ms, limit)
        known = {**claimed.get(source, {}), **stored.get(source, {})}
        template = max(known.values(), key=lambda row: row.connected_to_ms)
        result += [known.get(piece) or _row(template, piece, grace_ms) for piece in united[source]]
    result += _short(rows, claims, result, grace_ms)
    return sorted(result, key=lambda row: (row.connected_from_ms, row.connected_to_ms))


def _by_source(rows: Iterable[CoverageRow], grace_ms: int) -> dict[_Source, dict[_Piece, CoverageRow]]:
    """Return the rows that are longer than the grace by their source and piece."""
    found: defaultdict[_Source, dict[_Piece, CoverageRow]] = defaultdict(dict)
    for row in rows:
        piece = row.connected_from_ms, row.connected_to_ms - grace_ms, row.kafka_offset or 0
        if piece[0] < piece[1]:
            found[row.kafka_partition, row.evidence or Evidence.BARRIER][piece] = row
    return found


def _row(template: CoverageRow, piece: _Piece, grace_ms: int) -> CoverageRow:
    from_ms, end_ms, offset = piece
    return replace(template, connected_from_ms=from_ms, connected_to_ms=end_ms + grace_ms, kafka_offset=offset)


def _short(
    rows: Iterable[CoverageRow], claims: Iterable[CoverageRow], union: Iterable[CoverageRow], grace_ms: int
) -> Iterator[CoverageRow]:
    """Yield recent rows that readers shorten to nothing and no other row contains: their offsets show the progress."""
    kept = list(union)
    found = [row for row in (*rows, *claims) if 0 < row.connected_to_ms - row.connected_from_ms <= grace_ms]
    newest_ms = max((row.connected_to_ms for row in (*kept, *found)), default=0)
    for row in sorted(found, key=lambda row: row.connected_from_ms - row.connected_to_ms):
        contained = any(
            other.kafka_partition == row.kafka_partition
            and other.connected_from_ms <= row.connected_from_ms
            and other.connected_to_ms >= row.connected_to_ms
            for other in kept
        )
        if not contained and newest_ms - row.connected_to_ms < NO_BARRIER_AFTER_MS:
            kept.append(row)
            yield row


def _outside(piece: _Piece, others: Iterable[_Piece], newest_ms: int, limit: int) -> list[_Piece]:
    """Return the parts of the piece that no other covers at the same or a lower offset; up to `limit`, if it is old."""
    is_old = newest_ms - piece[1] >= NO_BARRIER_AFTER_MS
    highest = max(piece[2], limit) if is_old else piece[2]
    return _difference(piece, [other for other in others if other[2] <= highest])


def _difference(piece: _Piece, others: Iterable[_Piece]) -> list[_Piece]:
    """Return the parts of the piece outside all others."""
    from_ms, to_ms, offset = piece
    parts = [(from_ms, to_ms)]
    for start_ms, end_ms, _ in others:
        if start_ms < to_ms and end_ms > from_ms:
            cut = [((begin, min(end, start_ms)), (max(begin, end_ms), end)) for begin, end in parts]
            parts = [part for both in cut for part in both if part[0] < part[1]]
    return [(begin, end, offset) for begin, end in parts]


def _trimmed(stored: Collection[_Piece], claimed: Collection[_Piece]) -> list[_Piece]:
    """Return the pieces by their ends; none covers what another covers at a lower offset."""
    # A producer's claims have higher offsets than all stored pieces, which then stay; after a reset topic they do not.
    in_order = min((piece[2] for piece in claimed), default=0) >= max((piece[2] for piece in stored), default=0)
    kept, new = (list(stored), claimed) if in_order else ([], [*stored, *claimed])
    for piece in sorted(new, key=lambda piece: (piece[2], piece[0] - piece[1])):
        kept += _difference(piece, kept)
    return sorted(kept, key=lambda piece: (piece[1], piece[0]))


def _joined(pieces: Sequence[_Piece], newest_ms: int, limit: int) -> list[_Piece]:
    """Return the pieces without the ends that no reader needs: a later piece that continues one takes over its time."""
    kept: list[_Piece] = []
    for piece, earlier in zip_longest(reversed(pieces), list(reversed(pieces))[1:]):
        later = kept[-1] if kept else None
        if (
            later is not None
            and piece[1] >= later[0]
            and piece[2] <= max(later[2], limit)
            and _is_needless(piece, earlier, later, newest_ms)
        ):
            kept[-1] = min(piece[0], later[0]), later[1], max(piece[2], later[2])
        else:
            kept.append(piece)
    return kept


def _is_needless(piece: _Piece, earlier: _Piece | None, later: _Piece, newest_ms: int) -> bool:
    """Return whether the ends of `earlier` and `later` are close enough, for their age, to drop that of `piece`."""
    if piece[2] == later[2] or newest_ms - later[1] >= HORIZON_MS:
        return True
    if earlier is None or earlier[1] < piece[0]:
        return False
    return later[1] - earlier[1] <= (newest_ms - piece[1]) * CLOSENESS
