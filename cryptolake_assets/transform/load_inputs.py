"""Load a run's inputs: coverage, gaps, offsets, exchange clock, symbols.

The evidence is read before the Bronze snapshot, so that the snapshot contains at least the data that it describes; the
exchange's clock is read after it, so that no trade of the snapshot seems to be of the future on a slow machine.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time
from time import time_ns
from typing import TypeVar

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.bronze.offsets import committed_offsets
from cryptolake_assets.lake.coverage import CoverageExtent, read_coverage_of
from cryptolake_assets.lake.gap_ledger import read_missing
from cryptolake_assets.model.markets import exchanges_of
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.rules import FUTURE_TOLERANCE_MS, RuleContext, known_symbols
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings, Source
from cryptolake_assets.transform.quarantine import quarantined_out_of_range

T = TypeVar("T")

# How much newer than the end of coverage a trade may be while the exchange's clock does not respond: coverage may lag.
# In seconds of our clock, up to the maximum; a live exchange's time is about ours.
UNCERTAIN_S = 3_600.0
MAX_UNCERTAIN_S = 86_400.0
NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # an empty window, for callers that need only the extent


def load_run_inputs(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> RunInputs:
    """Return the family's inputs known now for trades and minutes of [start, end); None means no bound.

    If the exchange does not respond, its clock is the end of the coverage.
    """
    return load_inputs_around(settings, start, end, lambda: None)[0]


def load_inputs_around(
    settings: Settings, start: datetime | None, end: datetime | None, read: Callable[[], T]
) -> tuple[RunInputs, T]:
    """Return the inputs as `load_run_inputs` does, and the result of `read`.

    `read` reads the trades that the inputs describe and judge: after the evidence, and before the exchange's clock.
    """
    from cryptolake_assets.captures.tracked_symbols import default_start_date, resolve_subscriptions

    family = settings.venue.family
    offsets, exchanges = committed_offsets(settings, TRADES_OF_FAMILY[family]), exchanges_of(family)
    coverage, extent = read_coverage_of(settings, exchanges, start, end)
    # Read after the coverage: a gap is written before the coverage that contains its time.
    gaps = read_missing(settings, offsets, start, end)
    found = read()
    clock_ms = _clock_ms(settings)
    tracked = [
        (market.venue.exchange, symbol)
        for market in map(settings.of_market, settings.family_markets)
        for symbol in resolve_subscriptions(market).symbols
    ]
    latest = latest_trade_time(
        extent,
        clock_ms,
        now_ms=time_ns() // 1_000_000,
        clock_factor=settings.clock_factor,
        is_live=settings.source is Source.BINANCE,
    )
    rules = RuleContext(
        exchanges=exchanges,
        symbols=known_symbols(tracked, extent.symbols),
        earliest=datetime.combine(default_start_date(settings), time(), UTC),
        latest=latest,
        quarantined=quarantined_out_of_range(settings, start, end),
    )
    completeness = CompletenessIndex(coverage, offsets, settings.watermark_grace_ms, gaps)
    return RunInputs(_exchange_time_ms(extent, clock_ms), rules, completeness, offsets), found


def load_exchange_time_ms(settings: Settings) -> int | None:
    """Return the latest known exchange time: the exchange clock, or the end of the streams' coverage."""
    _, extent = read_coverage_of(settings, exchanges_of(settings.venue.family), NEVER, NEVER)
    return _exchange_time_ms(extent, _clock_ms(settings))


def _clock_ms(settings: Settings) -> int | None:
    from cryptolake_assets.binance.exchange_clock import exchange_clock_ms

    return exchange_clock_ms(settings)


def _exchange_time_ms(extent: CoverageExtent, clock_ms: int | None) -> int | None:
    times = (extent.streamed_to_ms, clock_ms)
    return max((time_ms for time_ms in times if time_ms is not None), default=None)


def latest_trade_time(
    extent: CoverageExtent, clock_ms: int | None, *, now_ms: int, clock_factor: float, is_live: bool
) -> datetime:
    """Return the latest possible time of a trade; `clock_ms` is the exchange's clock, if it responds.

    An archive day counts as closed, even if a replay's clock is before it. Without the exchange's clock, the end of
    coverage is only a lower bound: the trades after it must not be quarantined for ever. A clock behind the coverage is
    wrong.
    """
    times = [clock_ms, extent.streamed_to_ms, extent.archived_to_ms]
    if clock_ms is None or clock_ms < (extent.streamed_to_ms or 0) - FUTURE_TOLERANCE_MS:
        if extent.streamed_to_ms is not None:
            uncertain_s = min(UNCERTAIN_S * clock_factor, MAX_UNCERTAIN_S)
            times.append(extent.streamed_to_ms + round(uncertain_s * 1000))
        if is_live or extent.streamed_to_ms is None:
            times.append(now_ms)
    latest_ms = max(time_ms for time_ms in times if time_ms is not None)
    return datetime.fromtimestamp((latest_ms + FUTURE_TOLERANCE_MS) / 1000, UTC)
