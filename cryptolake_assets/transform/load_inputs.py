"""Load a run's inputs: coverage, gaps, offsets, exchange clock, symbols.

They are read before the Bronze snapshot, so that the snapshot contains at least the data that they describe.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.bronze.offsets import committed_offsets
from cryptolake_assets.lake.coverage import CoverageExtent, read_coverage_of
from cryptolake_assets.lake.gap_ledger import read_missing
from cryptolake_assets.model.markets import exchanges_of
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.rules import FUTURE_TOLERANCE_MS, RuleContext, known_symbols
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.quarantine import quarantined_out_of_range

NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # an empty window, for callers that need only the extent


def load_run_inputs(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> RunInputs:
    """Return the family's inputs known now for trades and minutes of [start, end); None means no bound.

    If the exchange does not respond, its clock is the end of the coverage.
    """
    from cryptolake_assets.captures.tracked_symbols import default_start_date, resolve_subscriptions

    family = settings.venue.family
    offsets, exchanges = committed_offsets(settings, TRADES_OF_FAMILY[family]), exchanges_of(family)
    coverage, extent = read_coverage_of(settings, exchanges, start, end)
    # Read after the coverage: a gap is written before the coverage that contains its time.
    gaps = read_missing(settings, offsets, start, end)
    exchange_time_ms = _exchange_time_ms(settings, extent)
    tracked = [
        (market.venue.exchange, symbol)
        for market in map(settings.of_market, settings.family_markets)
        for symbol in resolve_subscriptions(market).symbols
    ]
    rules = RuleContext(
        exchanges=exchanges,
        symbols=known_symbols(tracked, extent.symbols),
        earliest=datetime.combine(default_start_date(settings), time(), UTC),
        latest=_latest(exchange_time_ms, extent.archived_to_ms),
        quarantined=quarantined_out_of_range(settings, start, end),
    )
    completeness = CompletenessIndex(coverage, offsets, settings.watermark_grace_ms, gaps)
    return RunInputs(exchange_time_ms, rules, completeness)


def load_exchange_time_ms(settings: Settings) -> int | None:
    """Return the latest known exchange time: the exchange clock, or the end of the streams' coverage."""
    _, extent = read_coverage_of(settings, exchanges_of(settings.venue.family), NEVER, NEVER)
    return _exchange_time_ms(settings, extent)


def _exchange_time_ms(settings: Settings, extent: CoverageExtent) -> int | None:
    from cryptolake_assets.binance.exchange_clock import exchange_clock_ms

    times = (extent.streamed_to_ms, exchange_clock_ms(settings))
    return max((time_ms for time_ms in times if time_ms is not None), default=None)


def _latest(exchange_time_ms: int | None, archived_to_ms: int | None) -> datetime:
    """Return the latest possible time of a trade.

    An archive day counts as closed, even if a replay's clock is before it.
    """
    if exchange_time_ms is None:
        return datetime.now(UTC) + timedelta(milliseconds=FUTURE_TOLERANCE_MS)
    latest_ms = max(exchange_time_ms, archived_to_ms or exchange_time_ms)
    return datetime.fromtimestamp((latest_ms + FUTURE_TOLERANCE_MS) / 1000, UTC)
