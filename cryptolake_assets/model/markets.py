"""The exchange's markets and their differences. Pure.

Market-dependent code reads its `Venue`; addresses, paths and weights are defined only here. Sources: the exchange's
documentation of USD-M, COIN-M and Spot (REST, WebSocket streams, public archive), as of 2026.

This module is imported with the settings and when the Dagster definitions load: nothing heavy may be imported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

HOUR_MS = 3_600_000


class Market(StrEnum):
    """A market of Binance; the values are those of `CRYPTOLAKE_MARKET`."""

    USD_M = "usdm"
    COIN_M = "coinm"
    SPOT = "spot"


class Family(StrEnum):
    """A group of markets without common symbols, so that one lake can hold them; two families may share symbols."""

    FUTURES = "futures"
    SPOT = "spot"


@dataclass(frozen=True)
class Weights:
    """Request weights. `klines` and `depth` hold (maximum limit, weight), ascending."""

    per_minute: int
    exchange_info: int
    agg_trades: int
    historical_trades: int
    tickers: int
    klines: tuple[tuple[int, int], ...]
    depth: tuple[tuple[int, int], ...]

    def of_klines(self, limit: int) -> int:
        """Return the weight of a page of at most `limit` klines."""
        return _weight(self.klines, limit)

    def of_depth(self, limit: int) -> int:
        """Return the weight of a snapshot of at most `limit` levels a side."""
        return _weight(self.depth, limit)

    @property
    def max_depth(self) -> int:
        """Maximum levels a side of a snapshot."""
        return self.depth[-1][0]


def _weight(steps: tuple[tuple[int, int], ...], limit: int) -> int:
    return next((weight for maximum, weight in steps if limit <= maximum), steps[-1][1])


@dataclass(frozen=True)
class Venue:
    """One market."""

    market: Market
    family: Family
    title: str
    exchange: str  # the `exchange` column of its rows
    # Matches its symbols among those of its family; the first matching venue in `VENUES` owns the symbol.
    symbols: re.Pattern[str]
    live_symbols: tuple[str, ...]  # tracked by default

    ws_base_url: str
    ws_path: str  # path of combined streams; `?streams=…` follows
    ws_book_path: str  # path of combined streams of order books
    ws_routed: bool  # stream kinds have their own paths; the plain path acknowledges subscriptions but sends nothing
    # Trade type stored for `trade` frames without `X`. Spot frames never have it; all are order-book executions.
    unnamed_trade_type: str

    rest_base_url: str
    rest_path: str  # prefix of every endpoint, such as `/fapi/v1`
    weights: Weights
    max_klines: int  # maximum klines per page
    klines_newest_first: bool  # a page holds the newest klines of the requested window, not the oldest
    agg_trades_window_ms: int | None  # aggregates: `startTime` and `endTime` must be closer than this; None: no limit

    archive_path: str  # path below the archive's base URL; `/daily/…` follows
    archive_best_match: bool  # the archive's aggregates have an eighth column, `is_best_match`

    qty_unit: str
    # Unit of the klines' quote volume. Only the quote currency can be compared with bars (see `reconcile`) and used to
    # rank symbols by volume.
    kline_quote_volume: str

    @property
    def klines_count_quote(self) -> bool:
        """Return whether the klines' quote volume is in quote currency."""
        return self.kline_quote_volume == QUOTE


BASE, CONTRACTS, QUOTE = "base currency", "contracts", "quote currency"

_FUTURES_WEIGHTS = Weights(
    per_minute=2_400,
    exchange_info=1,
    agg_trades=20,
    historical_trades=20,
    tickers=40,
    klines=((99, 1), (499, 2), (1_000, 5), (1_500, 10)),
    depth=((50, 2), (100, 5), (500, 10), (1_000, 20)),
)

COIN_M = Venue(
    market=Market.COIN_M,
    family=Family.FUTURES,
    title="Binance COIN-M futures",
    exchange="binance_futures_coin",
    symbols=re.compile(r"[^_]+USD_(?:PERP|[0-9]{6})", re.ASCII),
    live_symbols=("BTCUSD_PERP", "ETHUSD_PERP"),
    ws_base_url="wss://dstream.binance.com",
    ws_path="/stream",
    ws_book_path="/stream",
    ws_routed=False,
    unnamed_trade_type="NA",
    rest_base_url="https://dapi.binance.com",
    rest_path="/dapi/v1",
    weights=_FUTURES_WEIGHTS,
    max_klines=1_500,
    klines_newest_first=True,
    agg_trades_window_ms=HOUR_MS,
    archive_path="/data/futures/cm",
    archive_best_match=False,
    qty_unit=CONTRACTS,
    kline_quote_volume=BASE,
)

USD_M = Venue(
    market=Market.USD_M,
    family=Family.FUTURES,
    title="Binance USD-M futures",
    exchange="binance_futures",
    symbols=re.compile(r".*"),
    live_symbols=("BTCUSDT", "ETHUSDT"),
    ws_base_url="wss://fstream.binance.com",
    ws_path="/market/stream",
    ws_book_path="/public/stream",
    ws_routed=True,
    unnamed_trade_type="NA",
    rest_base_url="https://fapi.binance.com",
    rest_path="/fapi/v1",
    weights=_FUTURES_WEIGHTS,
    max_klines=1_500,
    klines_newest_first=False,
    agg_trades_window_ms=HOUR_MS,
    archive_path="/data/futures/um",
    archive_best_match=False,
    qty_unit=BASE,
    kline_quote_volume=QUOTE,
)

SPOT = Venue(
    market=Market.SPOT,
    family=Family.SPOT,
    title="Binance Spot",
    exchange="binance_spot",
    symbols=re.compile(r".*"),
    live_symbols=("BTCUSDT", "ETHUSDT"),
    ws_base_url="wss://stream.binance.com:9443",
    ws_path="/stream",
    ws_book_path="/stream",
    ws_routed=False,
    unnamed_trade_type="MARKET",
    rest_base_url="https://api.binance.com",
    rest_path="/api/v3",
    weights=Weights(
        per_minute=6_000,
        exchange_info=20,
        agg_trades=4,
        historical_trades=25,
        tickers=80,
        klines=((1_000, 2),),
        depth=((100, 5), (500, 25), (1_000, 50), (5_000, 250)),
    ),
    max_klines=1_000,
    klines_newest_first=False,
    agg_trades_window_ms=None,
    archive_path="/data/spot",
    archive_best_match=True,
    qty_unit=BASE,
    kline_quote_volume=QUOTE,
)

# By market; COIN-M comes before USD-M, whose pattern matches any symbol.
VENUES = {venue.market: venue for venue in (COIN_M, USD_M, SPOT)}


def venue_of(symbol: str, family: Family = Family.FUTURES) -> Venue:
    """Return the symbol's venue in a family.

    COIN-M symbols are quoted in USD and name their contract: `BTCUSD_PERP`, `BTCUSD_250926`. All other futures are
    USD-M, including `BTCUSDT_250926`.
    """
    return next(venue for venue in VENUES.values() if venue.family is family and venue.symbols.fullmatch(symbol))


def exchanges_of(family: Family) -> tuple[str, ...]:
    """Return the `exchange` values of the tables of a family."""
    return tuple(venue.exchange for venue in VENUES.values() if venue.family is family)


EXCHANGES = {venue.exchange: venue for venue in VENUES.values()}  # venues by the values of the column `exchange`
