"""Load what a run must know before it reads Bronze: coverage, gaps, offsets, the exchange's clock, the symbols.

It is read before the Bronze snapshot, so that the snapshot holds at least what is said here.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from cryptolake_assets.bronze.offsets import committed_offsets
from cryptolake_assets.lake.coverage import CoverageRow, read_coverage
from cryptolake_assets.lake.gap_ledger import read_gaps
from cryptolake_assets.model.markets import exchanges_of
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.rules import FUTURE_TOLERANCE_MS, RuleContext, known_symbols
from cryptolake_assets.quality.run_inputs import RunInputs
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.quarantine import quarantined_out_of_range


def load_run_inputs(settings: Settings) -> RunInputs:
    """Return what is known now. An exchange that does not answer is no failure: its clock is then the coverage's."""
    from cryptolake_assets.captures.tracked_symbols import default_start_date, resolve_subscriptions

    offsets = committed_offsets(settings)
    exchanges = exchanges_of(settings.venue)
    coverage = [row for row in read_coverage(settings) if row.exchange in exchanges]
    # After the coverage: a gap is written before the coverage that holds its time.
    gaps = [gap for gap in read_gaps(settings) if gap.exchange in exchanges]
    exchange_time_ms = _exchange_time_ms(settings, coverage)
    # A day of the archive is over, also where the clock is a replay's.
    archived = [row.connected_to_ms for row in coverage if row.of_archive]
    rules = RuleContext(
        symbols=known_symbols(resolve_subscriptions(settings).symbols, (row.symbol for row in coverage)),
        earliest=datetime.combine(default_start_date(settings), time(), UTC),
        latest=_latest(max([exchange_time_ms, *archived]) if exchange_time_ms is not None else None),
        quarantined=quarantined_out_of_range(settings),
        exchanges=exchanges,
    )
    completeness = CompletenessIndex(coverage, offsets, settings.watermark_grace_ms, gaps)
    return RunInputs(exchange_time_ms, rules, completeness)


def load_exchange_time_ms(settings: Settings) -> int | None:
    """Return the furthest exchange time known: the exchange's clock, or what the streams were covered to."""
    exchanges = exchanges_of(settings.venue)
    return _exchange_time_ms(settings, [row for row in read_coverage(settings) if row.exchange in exchanges])


def _exchange_time_ms(settings: Settings, coverage: list[CoverageRow]) -> int | None:
    from cryptolake_assets.binance.exchange_clock import exchange_clock_ms

    times = [row.connected_to_ms for row in coverage if not row.of_archive]
    if (clock_ms := exchange_clock_ms(settings)) is not None:
        times.append(clock_ms)
    return max(times, default=None)


def _latest(exchange_time_ms: int | None) -> datetime:
    if exchange_time_ms is None:
        return datetime.now(UTC) + timedelta(milliseconds=FUTURE_TOLERANCE_MS)
    return datetime.fromtimestamp((exchange_time_ms + FUTURE_TOLERANCE_MS) / 1000, UTC)
