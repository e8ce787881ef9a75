"""Decide whether a time window is complete: coverage holds all of it and the watermark is past its end. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from cryptolake_assets.lake.gap_ledger import TradeGap
from cryptolake_assets.model.coverage_rows import LOADING, CoverageRow, Evidence

MICROSECONDS = 1_000
LATE_MS = 60_000

Key = tuple[str, str, str]  # exchange, symbol, stream
Spans = defaultdict[Key, list[tuple[int, int]]]  # [start, end) in ms


class CompletenessIndex:
    """Index of covered time by (exchange, symbol, stream), for deciding whether a window is complete.

    A coverage row counts once Bronze holds every Kafka record below its offset. Its end is moved back by the grace,
    because trades in flight when the connection's coverage ended may be missing. An archive row is written once its
    trades are in Bronze, and covers a closed day. Stream coverage excludes the time of `gaps` that are open or whose
    late-arriving trades are not in Bronze yet; archive coverage includes it, because the archive has those trades. Time
    proven only by klines is tracked separately: such a minute cannot be checked against the klines.
    """

    def __init__(
        self,
        rows: Iterable[CoverageRow],
        bronze_offsets: Mapping[int, int],
        grace_ms: int,
        gaps: Iterable[TradeGap] = (),
    ) -> None:
        streamed: defaultdict[Evidence, Spans] = defaultdict(lambda: defaultdict(list))
        archived: defaultdict[Evidence, Spans] = defaultdict(lambda: defaultdict(list))
        missing: Spans = defaultdict(list)
        self._streamed_to_ms: dict[Key, int] = {}
        for row in rows:
            end_ms = row.connected_to_ms - (0 if row.of_archive else grace_ms)
            if _is_in_bronze(row, bronze_offsets) and end_ms > row.connected_from_ms:
                # Rows of earlier releases have no evidence: archive rows were proven by ids, stream rows by barriers.
                evidence = row.evidence or (Evidence.IDS if row.of_archive else Evidence.BARRIER)
                spans = (archived if row.of_archive else streamed)[evidence]
                key = row.exchange, row.symbol, row.stream
                spans[key].append((row.connected_from_ms, end_ms))
                if not row.of_archive:
                    self._streamed_to_ms[key] = max(end_ms, self._streamed_to_ms.get(key, 0))
        for gap in gaps:
            if gap.closed_at is None or not _is_reached(bronze_offsets, gap.kafka_partition, gap.kafka_offset):
                span = gap.after_us // MICROSECONDS, gap.before_us // MICROSECONDS + 1
                missing[gap.exchange, gap.symbol, gap.stream].append(span)
        self._missing = {key: _union(spans) for key, spans in missing.items()}
        self._by_evidence = {
            evidence: {
                key: _union(
                    [
                        *archived[evidence][key],
                        *_difference(_union(streamed[evidence][key]), self._missing.get(key, [])),
                    ]
                )
                for key in archived[evidence].keys() | streamed[evidence].keys()
            }
            for evidence in Evidence
        }
        # Excludes time proven only by klines.
        self._independent = _merged(self._by_evidence[Evidence.IDS], self._by_evidence[Evidence.BARRIER])
        self._spans = _merged(self._independent, self._by_evidence[Evidence.KLINES])
        self._streams: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for exchange, symbol, stream in self._spans:
            self._streams[exchange, symbol].append(stream)

    def proven_until_ms(self) -> int:
        """Return the time until which the streams' coverage is in Bronze, for all symbols but late ones; 0 without any.

        A symbol is late if its coverage ends a minute before the latest one, as that of a stale symbol does.
        """
        latest_ms = max(self._streamed_to_ms.values(), default=0)
        return min((end_ms for end_ms in self._streamed_to_ms.values() if end_ms > latest_ms - LATE_MS), default=0)

    def is_complete(self, exchange: str, symbol: str, stream: str, start_ms: int, end_ms: int) -> bool:
        """Return whether every trade of [start_ms, end_ms) was received and is in Bronze."""
        return _contains(self._spans.get((exchange, symbol, stream), []), start_ms, end_ms)

    def evidence(self, exchange: str, symbol: str, stream: str, start_ms: int, end_ms: int) -> Evidence | None:
        """Return the evidence that the window is complete; None if there is none.

        If its parts have different evidence, return the weakest one needed: ids, then barriers, then klines.
        """
        key = exchange, symbol, stream
        for evidence, spans in (
            (Evidence.IDS, self._by_evidence[Evidence.IDS]),
            (Evidence.BARRIER, self._independent),
            (Evidence.KLINES, self._spans),
        ):
            if _contains(spans.get(key, []), start_ms, end_ms):
                return evidence
        return None

    def is_by_klines(self, exchange: str, symbol: str, start_ms: int, end_ms: int) -> bool:
        """Return whether only the exchange's klines prove that the window is complete, on any stream."""
        streams = self._streams.get((exchange, symbol), ())
        found = {self.evidence(exchange, symbol, stream, start_ms, end_ms) for stream in streams}
        return found - {None} == {Evidence.KLINES}

    def may_lack_trades(self, exchange: str, symbol: str, stream: str, start_ms: int, end_ms: int) -> bool:
        """Return whether trades of a gap may be missing in the window, and nothing proves that it is complete."""
        key = exchange, symbol, stream
        spans = self._missing.get(key, [])
        position = bisect_left(spans, (end_ms, 0)) - 1
        overlaps = position >= 0 and spans[position][1] > start_ms
        return overlaps and not self.is_complete(exchange, symbol, stream, start_ms, end_ms)

    def changed(self, earlier: CompletenessIndex) -> tuple[int, int] | None:
        """Return the extent [start_ms, end_ms) of time that is covered or missing here and not in `earlier`.

        None if empty.
        """
        both = (self._spans, earlier._spans), (self._missing, earlier._missing)
        fresh = [
            span
            for now, before in both
            for key, spans in now.items()
            for span in _difference(spans, before.get(key, []))
        ]
        return (min(start for start, _ in fresh), max(end for _, end in fresh)) if fresh else None

    def missing(self, start_ms: int = 0, end_ms: int | None = None) -> list[tuple[int, int]]:
        """Return the spans of all keys that may lack trades of a gap and overlap [start_ms, end_ms)."""
        spans = _union(span for each in self._missing.values() for span in each)
        return [span for span in spans if span[1] > start_ms and (end_ms is None or span[0] < end_ms)]

    def is_complete_on_any_stream(self, exchange: str, symbol: str, start_ms: int, end_ms: int) -> bool:
        """Return whether any one stream of the symbol covers the window."""
        streams = self._streams.get((exchange, symbol), ())
        return any(self.is_complete(exchange, symbol, stream, start_ms, end_ms) for stream in streams)


def _is_in_bronze(row: CoverageRow, bronze_offsets: Mapping[int, int]) -> bool:
    return row.kafka_partition != LOADING and _is_reached(bronze_offsets, row.kafka_partition, row.kafka_offset)


def _is_reached(bronze_offsets: Mapping[int, int], partition: int | None, offset: int | None) -> bool:
    """Return whether Bronze holds every record below the offset; True for rows without a Kafka offset."""
    return partition is None or offset is None or bronze_offsets.get(partition, 0) >= offset


def _contains(spans: Sequence[tuple[int, int]], start_ms: int, end_ms: int) -> bool:
    """Return whether one of the disjoint, sorted spans contains the window."""
    position = bisect_right(spans, (start_ms, 1 << 62)) - 1
    return position >= 0 and spans[position][1] >= end_ms


def _merged(
    some: Mapping[Key, list[tuple[int, int]]], others: Mapping[Key, list[tuple[int, int]]]
) -> dict[Key, list[tuple[int, int]]]:
    """Return the union of both by key."""
    return {key: _union([*some.get(key, []), *others.get(key, [])]) for key in some.keys() | others.keys()}


def _union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of the spans as disjoint, sorted spans."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _difference(spans: Iterable[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of `spans` outside `taken`; both are disjoint and sorted."""
    left = []
    for start, end in spans:
        for taken_start, taken_end in taken:
            if taken_end <= start or taken_start >= end:
                continue
            if taken_start > start:
                left.append((start, taken_start))
            start = taken_end
        if start < end:
            left.append((start, end))
    return left
