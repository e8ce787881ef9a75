"""Fold coverage claims into the stored rows of a stream: a union of proven intervals, few rows per symbol. Pure.

Only overlapping intervals are joined: a trade that was in flight at the end of one is received within the other.

A row counts once Bronze holds every record below its Kafka offset, and a joined row needs the highest offset of its
parts. Therefore the newest part of a union stays in several rows, whose ends lie closer together the newer they are:
while Bronze lags by x seconds, all but about the last 2.5x seconds count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.settings import Settings

HORIZON_MS: Final = 600_000  # rows that end earlier than this before the newest one are joined completely
CLOSENESS: Final = 2 / 3  # ends are thinned out to about this share of their age

OVERLAP_MARGIN_MS: Final = 60_000


def overlap_ms(settings: Settings) -> int:
    """Return how far consecutive rows of a union overlap; readers shorten each row by the watermark's grace."""
    return settings.watermark_grace_ms + OVERLAP_MARGIN_MS


def fold(rows: Iterable[CoverageRow], claims: Iterable[CoverageRow], overlap_ms: int) -> list[CoverageRow]:
    """Return the union of the stored rows and the claims of one (exchange, symbol, stream), in order.

    All are of the stream, not of the archive. `overlap_ms` is how far consecutive rows of a union overlap: at least the
    watermark's grace, by which readers shorten each row.
    """
    by_source: defaultdict[tuple[int | None, Evidence], list[CoverageRow]] = defaultdict(list)
    for row in (*rows, *claims):
        by_source[row.kafka_partition, row.evidence or Evidence.BARRIER].append(row)
    result: list[CoverageRow] = []
    for (partition, evidence), found in by_source.items():
        if evidence is Evidence.BARRIER:
            # Ids are the stronger evidence: what they cover needs no barrier.
            by_ids = by_source.get((partition, Evidence.IDS), ())
            found = [part for row in found for part in _outside(row, by_ids, overlap_ms)]
        result += _joined(_trimmed(found, overlap_ms))
    return sorted(result, key=lambda row: (row.connected_from_ms, row.connected_to_ms))


def _outside(row: CoverageRow, others: Iterable[CoverageRow], overlap_ms: int) -> list[CoverageRow]:
    """Return the parts of the row that no other row covers at the same or a lower offset."""
    parts = [row]
    for other in others:
        if _offset(other) <= _offset(row):
            parts = [rest for part in parts for rest in _difference(part, other, overlap_ms)]
    return parts


def _difference(row: CoverageRow, other: CoverageRow, overlap_ms: int) -> list[CoverageRow]:
    if other.connected_to_ms <= row.connected_from_ms or other.connected_from_ms >= row.connected_to_ms:
        return [row]
    parts = []
    if other.connected_from_ms > row.connected_from_ms:
        parts.append(replace(row, connected_to_ms=min(row.connected_to_ms, other.connected_from_ms + overlap_ms)))
    if other.connected_to_ms < row.connected_to_ms:
        parts.append(replace(row, connected_from_ms=max(row.connected_from_ms, other.connected_to_ms - overlap_ms)))
    return parts


def _trimmed(rows: Iterable[CoverageRow], overlap_ms: int) -> list[CoverageRow]:
    """Return the rows without those that another one contains at a lower offset, by their ends.

    A row begins shortly before the end of an earlier one that it continues.
    """
    kept: list[CoverageRow] = []
    for row in sorted(rows, key=lambda row: (_offset(row), row.connected_from_ms - row.connected_to_ms)):
        parts = [row]
        for other in kept:
            parts = [rest for part in parts for rest in _difference(part, other, overlap_ms)]
        kept += parts
    return sorted(kept, key=lambda row: (row.connected_to_ms, row.connected_from_ms))


def _joined(rows: Sequence[CoverageRow]) -> list[CoverageRow]:
    """Return the rows without the ends that no reader needs: an overlapping later row takes over their time."""
    kept: list[CoverageRow] = []
    for row, earlier in zip_longest(reversed(rows), list(reversed(rows))[1:]):
        later = kept[-1] if kept else None
        if later is not None and _overlap(row, later) and _is_needless(row, earlier, later, rows[-1].connected_to_ms):
            from_ms = min(row.connected_from_ms, later.connected_from_ms)
            kept[-1] = replace(later, connected_from_ms=from_ms, kafka_offset=max(_offset(row), _offset(later)))
        else:
            kept.append(row)
    return kept


def _is_needless(row: CoverageRow, earlier: CoverageRow | None, later: CoverageRow, newest_ms: int) -> bool:
    """Return whether the ends of `earlier` and `later` are close enough, for their age, to do without that of `row`."""
    if _offset(row) == _offset(later) or newest_ms - later.connected_to_ms >= HORIZON_MS:
        return True
    if earlier is None or not _overlap(earlier, row):
        return False
    return later.connected_to_ms - earlier.connected_to_ms <= (newest_ms - row.connected_to_ms) * CLOSENESS


def _overlap(row: CoverageRow, later: CoverageRow) -> bool:
    return row.connected_to_ms > later.connected_from_ms


def _offset(row: CoverageRow) -> int:
    return row.kafka_offset or 0
