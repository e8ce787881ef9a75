"""Record trades as gaps whose Kafka records were deleted before Bronze read them.

The trades after the coverage of which Bronze has all records may be lost, and those that closed a gap since. The gaps
have no end yet: the producer knows the newest trade of each symbol, bounds them and fetches the trades by REST. Until
then their minutes are not complete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from cryptolake_assets.binance.exchange_clock import exchange_clock_ms
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.gap_ledger import IcebergGapSink, OpenBecause, TradeGap, read_missing
from cryptolake_assets.lake.newest_trades import newest_trades
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)


def record_lost(settings: Settings, offsets: Mapping[int, int], partitions: Collection[int]) -> None:
    """Record the lost trades of these partitions of the settings' family as gaps.

    `offsets` are those below which Bronze has every record. Blocks; raises the catalog's errors.
    """
    missing = read_missing(settings, offsets)
    for market in map(settings.of_market, settings.family_markets):
        exchange = market.venue.exchange
        rows = [row for row in read_coverage(market, exchange=exchange) if row.kafka_partition in partitions]
        if not rows:
            continue
        by_stream: defaultdict[str, list[CoverageRow]] = defaultdict(list)
        for row in rows:
            by_stream[row.stream].append(row)
        # The lost trades are older than this.
        before_ms = max([exchange_clock_ms(market) or 0, *(row.connected_to_ms for row in rows)])
        gaps = [
            gap
            for stream, of_stream in by_stream.items()
            for gap in _gaps(
                market, stream, of_stream, [one for one in missing if one.exchange == exchange], before_ms, offsets
            )
        ]
        IcebergGapSink(market).write(gaps)
        log.error("records_lost", exchange=exchange, partitions=sorted(partitions), gaps=len(gaps))


def _gaps(
    settings: Settings,
    stream: str,
    rows: Iterable[CoverageRow],
    missing: Iterable[TradeGap],
    before_ms: int,
    offsets: Mapping[int, int],
) -> list[TradeGap]:
    """Return the gaps of a stream: those in `missing`, open again, and one after the last proven trade of each symbol.

    Proven by coverage, and in Bronze. Trades that are in Bronze after it are fetched again: else no coverage of a
    restarted producer would contain their time.
    """
    exchange = settings.venue.exchange
    covered_from_ms: dict[str, int] = {}
    until_us: dict[str, int] = {}
    for row in rows:
        covered_from_ms[row.symbol] = min(row.connected_from_ms, covered_from_ms.get(row.symbol, row.connected_from_ms))
        if (row.kafka_offset or 0) <= offsets.get(row.kafka_partition or 0, 0):
            proven_to_us = (row.connected_to_ms - settings.watermark_grace_ms) * 1000
            until_us[row.symbol] = max(proven_to_us, until_us.get(row.symbol, proven_to_us))
    gaps = {
        gap.key: replace(
            gap,
            ids_missing=gap.last_missing_id - gap.first_missing_id + 1 if gap.ids_missing or gap.closed_at else 0,
            ids_not_order_book=0,
            open_because=OpenBecause.LOST_IN_KAFKA,
            rejection=None,
            closed_at=None,
            closed_by=None,
            outcome=None,
            kafka_partition=None,
            kafka_offset=None,
        )
        for gap in missing
        if gap.stream == stream and gap.symbol in covered_from_ms
    }
    until_us = {symbol: until_us.get(symbol, before_ms * 1000) for symbol in covered_from_ms}
    newest = newest_trades(settings, exchange, stream, covered_from_ms.keys(), until_us)
    for symbol, from_ms in covered_from_ms.items():
        # A symbol without a recent trade in Bronze: all that was covered may be lost.
        newest_id, after_us = newest.get(symbol, (-1, from_ms * 1000))
        first = newest_id + 1
        for gap in sorted(gaps.values(), key=lambda gap: gap.first_missing_id):
            if gap.symbol == symbol and gap.ids_missing and gap.first_missing_id <= first <= gap.last_missing_id:
                first = gap.last_missing_id + 1
        gap = TradeGap(exchange, symbol, stream, first, first, 0, after_us, before_ms * 1000, datetime.now(UTC))
        gaps[gap.key] = replace(gap, open_because=OpenBecause.LOST_IN_KAFKA)
    return list(gaps.values())
