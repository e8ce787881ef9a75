"""REST klines: a malformed one is rejected with its reason, and the others of the hour are stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from cryptolake_assets.binance.rest_responses import parse_klines
from cryptolake_assets.errors import ExchangeError, ResponseShapeError
from cryptolake_assets.ingest import klines
from cryptolake_assets.ingest.klines import FetchedHour, fetch_hour, read_klines
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.markets import Market, Venue
from cryptolake_assets.model.windows import HOUR as AN_HOUR
from cryptolake_assets.settings import Settings, Source

HOUR = datetime(2023, 11, 14, 22, tzinfo=UTC)
FIRST_MS = 1_699_999_200_000
ROW = [FIRST_MS, "1", "2", "0.5", "1.5", "10", FIRST_MS + 59_999, "15", 3, "1", "1.5", "0"]


def kline(minute: int = 0, **values: object) -> list[object]:
    """Return a REST row; `values` replace those at `_<position>`."""
    row = [*ROW]
    row[0], row[6] = FIRST_MS + minute * 60_000, FIRST_MS + minute * 60_000 + 59_999
    for place, value in values.items():
        row[int(place[1:])] = value
    return row


def fetched(
    lake: Settings,
    monkeypatch: pytest.MonkeyPatch,
    pages: dict[str, list[list[object]]],
    *,
    markets: tuple[Market, ...] = (),
    unreachable: Market | None = None,
) -> FetchedHour:
    """Return the result of a run with these REST responses, by item of the symbol selection."""

    class Exchange:
        def __init__(self, *_: Any, venue: Venue, **__: Any) -> None:
            if venue.market is unreachable:
                raise ExchangeError(f"exchange: {venue.market} does not respond")
            self.market = venue.market

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def time_ms(self) -> int:
            return FIRST_MS + 10 * 3_600_000

        def klines(self, symbol: str, *_: object) -> list[Kline]:
            page = pages.get(f"{self.market}:{symbol}") or pages[symbol]
            return parse_klines(json.dumps(page).encode())

    monkeypatch.setattr(klines, "ExchangeRest", Exchange)
    settings = lake.model_copy(update={"source": Source.BINANCE, "symbols": tuple(pages), "markets": markets})
    return fetch_hour(settings, HOUR, "run")


MALFORMED = {
    "a price with nine decimals": (kline(1, _1="1.123456789"), "open"),
    "a price of eleven digits": (kline(1, _2="12345678901"), "high"),
    "a volume with nine decimals": (kline(1, _5="1.123456789"), "volume"),
    "a volume of 31 digits": (kline(1, _5="1" * 31), "volume"),
    "a negative volume": (kline(1, _5="-1"), "volume"),
    "a negative count": (kline(1, _8=-1), "count"),
    "times in µs": (kline(1, _0=(FIRST_MS + 60_000) * 1000, _6=(FIRST_MS + 119_999) * 1000), "not in the hour"),
    "another hour": (kline(60), "not in the hour"),
    "a close time that is no year": (kline(1, _6=10**18), "close_time"),
    "another close time": (kline(1, _6=FIRST_MS + 1_000_000), "bounds of a minute"),
    "an open time within a minute": (kline(1, _0=FIRST_MS + 61_000), "bounds of a minute"),
    "a low above the open": (kline(1, _3="1.2"), "between low and high"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_kline_is_rejected_and_the_others_are_stored(
    lake: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    malformed, cause = MALFORMED[name]
    result = fetched(lake, monkeypatch, {"BTCUSDT": [kline(0), malformed, kline(2)], "ETHUSDT": [kline(0)]})
    assert result.klines == 3
    (reason,) = result.rejected_rows
    assert reason.startswith(f"BTCUSDT {malformed[0]}: ")
    assert cause in reason
    assert sorted(read_klines(lake, HOUR, HOUR + AN_HOUR)) == [
        ("binance_futures", "BTCUSDT", FIRST_MS),
        ("binance_futures", "BTCUSDT", FIRST_MS + 120_000),
        ("binance_futures", "ETHUSDT", FIRST_MS),
    ]


def test_different_klines_of_the_same_minute_are_all_rejected(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"BTCUSDT": [kline(0), kline(0, _5="11"), kline(2), kline(2)]}
    done = fetched(lake, monkeypatch, pages)
    assert done.rejected_rows == (f"BTCUSDT {FIRST_MS}: the minute has different klines",) * 2
    assert sorted(read_klines(lake, HOUR, HOUR + AN_HOUR)) == [("binance_futures", "BTCUSDT", FIRST_MS + 120_000)], (
        "a repeat is one"
    )


def test_answer_of_another_shape_holds_back_its_symbol_alone(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    done = fetched(lake, monkeypatch, {"BTCUSDT": [kline(0, _1=1.5)], "ETHUSDT": [kline(0)]})
    assert done.klines == 1
    assert done.rejected_rows[0].startswith("BTCUSDT: exchange: the response of klines has an unknown format")
    with pytest.raises(ResponseShapeError):
        fetched(lake, monkeypatch, {"BTCUSDT": [kline(0, _1=1.5)]})


MARKETS = (Market.USD_M, Market.COIN_M, Market.SPOT)
PAGES = {"BTCUSDT": [kline(0)], "coinm:BTCUSD_PERP": [kline(0, _5="7")], "spot:BTCUSDT": [kline(0, _5="9")]}


def test_klines_of_a_family_are_those_of_its_tracked_markets(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetched(lake, monkeypatch, PAGES, markets=MARKETS).klines == 2
    assert sorted(read_klines(lake, HOUR, HOUR + AN_HOUR)) == [
        ("binance_futures", "BTCUSDT", FIRST_MS),
        ("binance_futures_coin", "BTCUSD_PERP", FIRST_MS),
    ]
    spot = lake.of_market(Market.SPOT)
    assert read_klines(spot, HOUR, HOUR + AN_HOUR) == {}
    assert fetched(spot, monkeypatch, PAGES, markets=MARKETS).klines == 1
    assert sorted(read_klines(spot, HOUR, HOUR + AN_HOUR)) == [("binance_spot", "BTCUSDT", FIRST_MS)]


def test_unreachable_market_does_not_hold_back_the_klines_of_another(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExchangeError, match="usdm does not respond"):
        fetched(lake, monkeypatch, PAGES, markets=MARKETS, unreachable=Market.USD_M)
    assert sorted(read_klines(lake, HOUR, HOUR + AN_HOUR)) == [("binance_futures_coin", "BTCUSD_PERP", FIRST_MS)]
