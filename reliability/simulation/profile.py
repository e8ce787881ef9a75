"""The fixed facts of one simulation: markets, symbols, rates, settings. Drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Self

from cryptolake_assets.model.markets import Market

_SYMBOLS = {
    Market.USD_M: ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT"),
    Market.COIN_M: ("BTCUSD_PERP", "ETHUSD_PERP"),
}
_SHARES = (1.0, 0.3, 0.02)  # of trades: a busy symbol, a usual one, and one with a trade a minute


@dataclass(frozen=True)
class Profile:
    """What stays the same during a simulation."""

    symbols: dict[Market, dict[str, float]]  # with the share of each symbol of the market's trades
    rate: float  # trades per s of all markets
    partitions: int
    coverage_interval_s: float
    connection_life_s: float
    gap_repair_max_ids: int
    bronze_trigger_s: float
    follower_tick_s: float

    @classmethod
    def drawn(cls, random: Random) -> Self:
        markets = (Market.USD_M,) if random.random() < 0.75 else (Market.USD_M, Market.COIN_M)
        return cls(
            symbols={market: dict(zip(_SYMBOLS[market], _SHARES, strict=False)) for market in markets},
            rate=random.uniform(1.4, 1.55),
            partitions=random.choice((1, 3)),
            coverage_interval_s=random.choice((15.0, 30.0, 60.0)),
            connection_life_s=random.uniform(400.0, 3_000.0),
            gap_repair_max_ids=random.choice((500_000, 500_000, 50)),
            bronze_trigger_s=random.choice((5.0, 10.0, 20.0)),
            follower_tick_s=random.choice((15.0, 30.0)),
        )
