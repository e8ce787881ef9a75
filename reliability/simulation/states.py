"""Interesting states that a simulation reached: they show that its faults meet what they are meant to meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, OpenBecause
from cryptolake_assets.model.markets import VENUES
from cryptolake_assets.model.windows import MINUTE_US
from reliability.simulation.simulated_lake import moment

if TYPE_CHECKING:
    from reliability.simulation.world import World

SOON_S: Final = 60.0  # after a restart
# States by the product's log event.
_OF_EVENTS: Final = {
    "barrier_timed_out": "barrier_without_response",
    "batch_resent": "resent_batch",
    "broker_stalled": "broker_stalled",
    "connection_rejected": "connection_rejected",
    "connection_timed_out": "half_open_connection_closed",
    "coverage_write_failed": "claim_given_back",
    "drain_incomplete": "drain_incomplete",
    "exchange_throttled": "requests_paused",
    "gap_ledger_read_failed": "gap_ledger_unreadable_at_start",
    "gap_ledger_write_failed": "gap_write_failed",
    "handover_timed_out": "handover_timed_out",
    "kafka_session_restarted": "session_restarted",
    "newest_trades_missing": "missing_tail_found",
    "shutdown_announced": "shutdown_announced",
    "symbol_stale": "stale_symbol",
    "symbols_changed": "symbols_changed",
}


def states_of_event(world: World, event: str) -> Iterator[str]:
    """Yield the states that an event of the product's log shows."""
    if event in _OF_EVENTS:
        yield _OF_EVENTS[event]
    elif event == "gap_fetched" and world.processes > 1 and world.now - world.started_at < SOON_S:
        yield "repair_during_restart"
    elif event == "connection_replaced" and _has_open_gap(world):
        yield "replacement_during_gap"
    elif event == "market_started" and world.now - world.started_at > SOON_S:
        yield "late_market"


def _has_open_gap(world: World) -> bool:
    trackers = {} if world.process is None else world.process.tracked_ids
    return any(tracker.ids_missing for tracker in trackers.values())


def states_at_end(world: World) -> Iterator[str]:
    """Yield the states that the lake shows."""
    complete = world.silver.complete_minutes()
    for gap in world.ledger.gaps.values():
        if gap.open_because is OpenBecause.BEYOND_LIMIT:
            yield "gap_beyond_limit"
        if gap.outcome is GapOutcome.ARRIVED:
            yield "gap_closed_by_stream"
        if gap.closed_by is ClosedBy.REST:
            yield "gap_closed_by_rest"
            minute = moment(gap.after_us // MINUTE_US * 60_000)
            if (gap.exchange, gap.symbol, minute) in complete:
                yield "minute_completed_after_repair"
    for market in world.markets.values():
        exchange = VENUES[market.venue.market].exchange
        for symbol in market.symbols.values():
            if symbol.corrupted - world.unstored.get((exchange, symbol.name), {}).keys():
                yield "rejected_then_accepted"
