"""The actions of a schedule: each makes one fault in a world, at once or for some time.

An action is data: its kind and four numbers, whose meaning is that of its kind. The same numbers mean about the same
in any world, so that schedules can be shortened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import msgspec

from cryptolake_assets.errors import BrokerError
from reliability.simulation.simulated_exchange import SimulatedMarket, SimulatedSymbol
from reliability.simulation.simulated_silver import RunFate
from reliability.simulation.world import World


class Action(msgspec.Struct, frozen=True):
    """One fault, `after_s` seconds after the one before."""

    kind: str
    after_s: float = 0.0
    lasts_s: float = 0.0  # how long it lasts
    count: int = 1  # how many frames, batches, or writes it concerns
    pick: float = 0.0  # from [0, 1): chooses the market, symbol, connection, or variant

    def __str__(self) -> str:
        return (
            f"Action({self.kind!r}, after_s={self.after_s}, lasts_s={self.lasts_s}, count={self.count}, "
            f"pick={self.pick})"
        )


@dataclass(frozen=True)
class Kind:
    """How to carry out an action, and how to draw its numbers."""

    act: Callable[[World, Action], None]
    weight: float = 1.0
    lasts_s: tuple[float, float] = (0.0, 0.0)
    count: tuple[int, int] = (1, 1)


def draw(random: Random) -> Action:
    """Return a random action."""
    name = random.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]
    kind = KINDS[name]
    low, high = kind.lasts_s
    # More short ones than long ones.
    lasts_s = low + (high - low) * random.random() ** 3
    first, last = kind.count
    count = first + int((last - first + 1) * random.random() ** 2)
    return Action(name, round(random.expovariate(1 / 150), 3), round(lasts_s, 3), count, round(random.random(), 4))


def perform(world: World, action: Action) -> None:
    """Let the time before the action pass, then carry it out."""
    world.run(action.after_s)
    world.log("action", action)
    world.counts.actions[action.kind] += 1
    KINDS[action.kind].act(world, action)


def _market(world: World, action: Action) -> SimulatedMarket:
    markets = list(world.markets.values())
    return markets[int(action.pick * 997 % 1 * len(markets))]


def _symbol(world: World, action: Action) -> SimulatedSymbol:
    symbols = list(_market(world, action).symbols.values())
    return symbols[int(action.pick * len(symbols))]


# What the exchange sends.


def _burst(world: World, action: Action) -> None:
    market = _market(world, action)
    for number in range(action.count):
        world.loop.call_later(0.02 * number, market.emit, 20)


def _drop(world: World, action: Action) -> None:
    _market(world, action).faults.drop += action.count


def _duplicate(world: World, action: Action) -> None:
    _market(world, action).faults.duplicate += action.count


def _corrupt(world: World, action: Action) -> None:
    _market(world, action).faults.corrupt += action.count


def _late(world: World, action: Action) -> None:
    faults = _market(world, action).faults
    faults.late += action.count
    faults.late_s = action.lasts_s


def _reorder(world: World, action: Action) -> None:
    _market(world, action).faults.reorder += action.count


def _hostile(world: World, action: Action) -> None:
    _market(world, action).faults.hostile += action.count


def _silence(world: World, action: Action) -> None:
    _symbol(world, action).silent_until = world.now + action.lasts_s


def _halt(world: World, action: Action) -> None:
    symbol = _symbol(world, action)
    symbol.is_halted = True
    world.loop.call_later(action.lasts_s, setattr, symbol, "is_halted", False)


def _delist(world: World, action: Action) -> None:
    symbol = _symbol(world, action)
    symbol.is_listed = False
    world.loop.call_later(action.lasts_s, setattr, symbol, "is_listed", True)


# Connections.


def _cut(world: World, action: Action) -> None:
    code = (1006, 1006, 1001, 1008, 1011)[int(action.pick * 5)]
    _market(world, action).each_socket(lambda socket: socket.cut(code, loses=action.count > 1))


def _stall(world: World, action: Action) -> None:
    _market(world, action).each_socket(lambda socket: socket.stall())


def _refuse(world: World, action: Action) -> None:
    market = _market(world, action)
    market.rejects_until = world.now + action.lasts_s
    market.rejects_with = (0, 429, 418, 503)[int(action.pick * 4)]
    market.each_socket(lambda socket: socket.cut(1006))


def _shutdown(world: World, action: Action) -> None:
    """Announce the end of all connections of a market, then end them."""
    notice = b'{"e":"serverShutdown","E":%d}' % _market(world, action).clock_ms
    for socket in list(_market(world, action).sockets):
        socket.deliver([notice])
        world.loop.call_later(action.lasts_s, socket.cut, 1001)


# REST and clocks.


def _rest(kind: str) -> Callable[[World, Action], None]:
    def act(world: World, action: Action) -> None:
        faults = list(world.rest_faults.values())
        fault = faults[int(action.pick * len(faults))]
        fault.kind, fault.until = kind, world.now + action.lasts_s
        fault.retry_after_s = 1 + int(action.lasts_s * action.pick)

    return act


def _rest_malformed(world: World, action: Action) -> None:
    _symbol(world, action).malformed_until = world.now + action.lasts_s


def _our_clock(world: World, action: Action) -> None:
    world.wall_skew_ns += int((action.pick - 0.5) * 2 * action.lasts_s * 1e9)


def _exchange_clock(world: World, action: Action) -> None:
    _market(world, action).skew_ms += int((action.pick - 0.3) * action.lasts_s * 1000)


# The producer's process.


def _kill(world: World, action: Action) -> None:
    if world.process is not None:
        world.kill()
        world.later(action.lasts_s, world.start)


def _stop(world: World, action: Action) -> None:
    process = world.process
    if process is not None and not process.stop.is_set():
        process.stop.set()

        def start_again() -> None:
            if world.process is process:
                world.kill()
            world.start()

        world.later(30.0 + action.lasts_s, start_again)


def _symbols(world: World, action: Action) -> None:
    """Stop tracking a symbol for some time."""
    symbol = _symbol(world, action)
    item = next(item for item in world.all_items if item.endswith(f":{symbol.name}"))
    if len(world.symbols_file.items) > len(world.markets) and item in world.symbols_file.items:
        world.untrack(item)
        world.loop.call_later(action.lasts_s, world.track, item)


# The broker.


def _lose_acks(world: World, action: Action) -> None:
    world.broker.lose_acks += action.count


def _unknown_offsets(world: World, action: Action) -> None:
    world.broker.unknown_offsets += action.count


def _break_session(world: World, action: Action) -> None:
    if action.pick < 0.5:
        world.broker.break_sessions += action.count
    elif world.process is not None:
        world.process.publisher.is_hung = True


def _broker_away(world: World, action: Action) -> None:
    world.broker.is_away = True
    _broker_restarts(world, action)
    world.loop.call_later(action.lasts_s, setattr, world.broker, "is_away", False)


def _broker_restarts(world: World, _action: Action) -> None:
    if world.process is not None:
        world.process.publisher.lose_connection(BrokerError("kafka: the broker restarts"))


def _broker_slow(world: World, action: Action) -> None:
    world.broker.slow_until = world.now + action.lasts_s
    world.broker.slow_s = 0.5 + 10 * action.pick


# The lake.


def _coverage_fails(world: World, action: Action) -> None:
    faults = world.lake.coverage.faults
    faults.before += action.count if action.pick < 0.5 else 0
    faults.after += action.count if action.pick >= 0.5 else 0


def _ledger_fails(world: World, action: Action) -> None:
    faults = world.ledger.faults
    faults.before += action.count if action.pick < 0.5 else 0
    faults.after += action.count if action.pick >= 0.5 else 0


def _ledger_unreadable(world: World, action: Action) -> None:
    for ledger in world.ledgers.values():
        ledger.reads_fail = action.count


def _lake_slow(world: World, action: Action) -> None:
    world.jobs_slow_until = world.now + action.lasts_s


def _bronze_slow(world: World, action: Action) -> None:
    world.bronze_state.away_until = world.now + action.lasts_s


def _bronze_killed(world: World, action: Action) -> None:
    world.bronze_state.kill_after_append += action.count


def _silver_fails(world: World, action: Action) -> None:
    fate = (RunFate.FAILS, RunFate.KILLED, RunFate.SLOW)[int(action.pick * 3)]
    world.silver.next_fates.extend([fate] * action.count)


def _follower_restarts(world: World, action: Action) -> None:
    world.silver.restart()
    if action.pick < 0.3:
        world.silver.lose_cursor(with_copy=action.pick < 0.1)
    if action.pick > 0.6:
        world.silver.kill_runs()


KINDS: Final[dict[str, Kind]] = {
    "burst": Kind(_burst, 1.0, count=(5, 60)),
    "drop": Kind(_drop, 1.5, count=(1, 30)),
    "duplicate": Kind(_duplicate, 0.7, count=(1, 30)),
    "corrupt": Kind(_corrupt, 1.5, count=(1, 20)),
    "late": Kind(_late, 1.0, (0.1, 60.0), (1, 20)),
    "reorder": Kind(_reorder, 1.0, count=(1, 20)),
    "hostile": Kind(_hostile, 0.7, count=(1, 20)),
    "silence": Kind(_silence, 1.0, (10.0, 400.0)),
    "halt": Kind(_halt, 0.5, (10.0, 900.0)),
    "delist": Kind(_delist, 1.0, (10.0, 240.0)),
    "cut": Kind(_cut, 2.0, count=(1, 2)),
    "stall": Kind(_stall, 1.0),
    "refuse": Kind(_refuse, 1.0, (5.0, 200.0)),
    "shutdown": Kind(_shutdown, 1.0, (1.0, 60.0)),
    "rest_429": Kind(_rest("429"), 0.7, (5.0, 200.0)),
    "rest_418": Kind(_rest("418"), 0.7, (5.0, 400.0)),
    "rest_html": Kind(_rest("html"), 0.5, (5.0, 300.0)),
    "rest_html_200": Kind(_rest("html_200"), 0.5, (5.0, 300.0)),
    "rest_500": Kind(_rest("500"), 0.5, (5.0, 300.0)),
    "rest_malformed": Kind(_rest_malformed, 0.8, (30.0, 900.0)),
    "rest_down": Kind(_rest("down"), 0.8, (5.0, 400.0)),
    "rest_slow": Kind(_rest("slow"), 0.8, (5.0, 600.0)),
    "our_clock": Kind(_our_clock, 0.7, (1.0, 600.0)),
    "exchange_clock": Kind(_exchange_clock, 0.7, (0.1, 30.0)),
    "kill": Kind(_kill, 3.0, (0.5, 120.0)),
    "stop": Kind(_stop, 1.0, (0.0, 60.0)),
    "symbols": Kind(_symbols, 1.0, (3.0, 600.0)),
    "lost_ack": Kind(_lose_acks, 1.0, count=(1, 5)),
    "unknown_offset": Kind(_unknown_offsets, 1.0, count=(1, 5)),
    "broken_session": Kind(_break_session, 0.7, count=(1, 3)),
    "broker_away": Kind(_broker_away, 1.0, (5.0, 300.0)),
    "broker_restart": Kind(_broker_restarts, 0.7),
    "broker_slow": Kind(_broker_slow, 0.7, (5.0, 120.0)),
    "coverage_fails": Kind(_coverage_fails, 0.8, count=(1, 6)),
    "ledger_fails": Kind(_ledger_fails, 0.8, count=(1, 6)),
    "ledger_unreadable": Kind(_ledger_unreadable, 0.5, count=(1, 3)),
    "lake_slow": Kind(_lake_slow, 0.7, (10.0, 300.0)),
    "bronze_slow": Kind(_bronze_slow, 1.0, (10.0, 600.0)),
    "bronze_killed": Kind(_bronze_killed, 1.0),
    "silver_fails": Kind(_silver_fails, 1.0, count=(1, 3)),
    "follower_restart": Kind(_follower_restarts, 1.0),
}
