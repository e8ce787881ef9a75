"""Schedules of actions from a seed, and the run of a schedule to its quiet end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TextIO

from cryptolake_assets.lake.gap_ledger import OpenBecause
from cryptolake_assets.model.markets import VENUES
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.quality.minute_bars import epoch_ms
from reliability.simulation import knobs
from reliability.simulation.actions import Action, draw, perform
from reliability.simulation.oracle import EmittedTrade
from reliability.simulation.simulated_lake import moment
from reliability.simulation.states import states_at_end
from reliability.simulation.world import World

HOUR_S: Final = 3_600.0
MAX_QUIET_S: Final = 2 * HOUR_S  # until everything must be repaired and complete after the last fault
QUIET_STEP_S: Final = 30.0
MAX_UNCLAIMED_MS: Final = 120_000  # exchange time that a killed producer had not claimed yet
MIN_ACTIONS: Final = 12


@dataclass(frozen=True)
class Outcome:
    """The end of a simulation."""

    seed: int
    violations: Sequence[str]
    hours: float
    frames: int
    actions: dict[str, int]
    states: frozenset[str]
    digest: str
    quiet_s: float  # until everything was repaired


def schedule_of(seed: int) -> list[Action]:
    """Return the actions of an hour, by seed."""
    random = Random(f"{seed}:schedule")
    actions: list[Action] = []
    time_s = 0.0
    while True:
        action = draw(random)
        time_s += action.after_s
        if time_s > HOUR_S:
            if len(actions) >= MIN_ACTIONS:
                return actions
            actions, time_s = [], 0.0
            continue
        actions.append(action)


def simulate(seed: int, actions: Sequence[Action] | None = None, log_file: TextIO | None = None) -> Outcome:
    """Run the actions (default: those of the seed) in an hour of the seed's world, and then until all is quiet."""
    with knobs.set_to(knobs.drawn(Random(f"{seed}:knobs"))):
        return _simulate(World(seed, log_file), schedule_of(seed) if actions is None else actions)


def _simulate(world: World, actions: Sequence[Action]) -> Outcome:
    try:
        world.start()
        for action in actions:
            perform(world, action)
            if world.violations:
                break
        world.run(max(0.0, HOUR_S - world.now))
        healed_at = world.now
        violations = [] if world.violations else settle(world)
        return Outcome(
            seed=world.seed,
            violations=[*world.violations, *violations],
            hours=world.now / HOUR_S,
            frames=sum(market.frames_sent for market in world.markets.values()),
            actions=dict(world.counts.actions),
            states=frozenset(world.counts.states.union(states_at_end(world))),
            digest=world.log.digest,
            quiet_s=world.now - healed_at,
        )
    finally:
        world.close()


def settle(world: World) -> list[str]:
    """End all faults, let time pass until everything is repaired and complete; return what is not in time."""
    world.heal()
    until = {key: trades.trades[-1].trade_id for key, trades in world.oracle.emitted_by.items() if trades.trades}
    until_ms = min(market.clock_ms for market in world.markets.values())
    end = world.now + MAX_QUIET_S
    problems = ["simulation: not begun"]
    while problems and world.now < end and not world.violations:
        world.run(QUIET_STEP_S)
        world.start()
        problems = unfinished(world, until, until_ms)
    if not world.violations and not problems:
        check_end(world, until_ms)
    return problems


def unfinished(world: World, until: dict[tuple[str, str], int], until_ms: int) -> list[str]:
    """Return what is not repaired or complete yet, of the trades up to these ids and the minutes before `until_ms`."""
    found: list[str] = []
    for key, last in until.items():
        first = world.first_stored.get(key, last)
        found += [
            f"end: {key[1]} {trade_id} is not on the topic"
            for trade_id in world.unstored[key]
            if first < trade_id <= last and not _is_beyond_limit(world, key, trade_id)
        ]
    found += [
        f"end: open gap {gap}"
        for gap in world.ledger.gaps.values()
        if gap.closed_at is None and gap.open_because is not OpenBecause.BEYOND_LIMIT
    ]
    if found:
        return found
    complete = world.silver.complete_minutes()
    for key, first in world.first_stored.items():
        trade = world.oracle.emitted_by[key].find(first)
        assert trade is not None
        for start_ms in world.oracle.completable(*key, trade.time_ms, until_ms):
            if (*key, moment(start_ms)) not in complete and not _has_unrepairable(world, key, start_ms):
                found.append(f"end: {key[1]} {moment(start_ms):%H:%M} is not complete")
    return found


def _has_unrepairable(world: World, key: tuple[str, str], start_ms: int) -> bool:
    """Return whether a gap beyond the limit spans or spanned a part of the minute, or begins soon after it.

    After a restart, ids prove only the time after such a gap, even if it is repaired; the time before it is proven
    up to the last claim.
    """
    return any(
        gap.first_missing_id in world.oracle.emitted_by[key].beyond_limit
        and gap.after_us < (start_ms + MINUTE_MS + MAX_UNCLAIMED_MS) * 1_000
        and gap.before_us >= start_ms * 1_000
        for gap in world.oracle.emitted_by[key].gaps.values()
    )


def _is_beyond_limit(world: World, key: tuple[str, str], trade_id: int) -> bool:
    return any(gap.open_because is OpenBecause.BEYOND_LIMIT for gap in world.oracle.emitted_by[key].gaps_with(trade_id))


def check_end(world: World, until_ms: int) -> None:
    """Compare the lake with the exchange, the minutes before `until_ms`."""
    world.oracle.check_end(lambda exchange, symbol, trade_id: _find(world, exchange, symbol, trade_id) is not None)
    for bar in world.silver.bars.values():
        if not bar["is_complete"] and epoch_ms(bar["window_start"]) + MINUTE_MS <= until_ms:
            world.oracle.check_incomplete(bar)
    world.violations += world.oracle.violations
    world.oracle.violations.clear()


def _find(world: World, exchange: str, symbol: str, trade_id: int) -> EmittedTrade | None:
    market = next(market for market in world.markets.values() if VENUES[market.venue.market].exchange == exchange)
    return market.symbols[symbol].find(trade_id)
