"""The three markets: their table, and REST clients and WebSockets on a capture of each."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from cryptolake_assets.binance.rest import AsyncExchangeRest, ExchangeRest
from cryptolake_assets.binance.rest_responses import parse_exchange_info
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.market_of_capture import (
    MARKET_FILE,
    capture_directory,
    captured_markets,
    recording_directory,
    write_market,
)
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.errors import CaptureError, SettingsError, UnknownSymbolError
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.model.markets import COIN_M, SPOT, USD_M, VENUES, Family, Market, Venue, exchanges_of, venue_of
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, PROJECT_ROOT, load_settings
from cryptolake_tests.support.aggregates_rest import AggregatesRest
from cryptolake_tests.support.markets import COIN_SYMBOL, coin_capture, spot_capture
from cryptolake_tests.support.served import ServedExchange
from cryptolake_tests.support.sockets import open_socket

HISTORY_MS = 1_800_000_000_000  # after all captures of these tests


@pytest.mark.parametrize(
    ("symbol", "venue"),
    [
        ("BTCUSDT", USD_M),
        ("BTCUSDT_250926", USD_M),
        ("ETHUSDC", USD_M),
        ("1000SHIBUSDT", USD_M),
        ("BTCUSD_PERP", COIN_M),
        ("ADAUSD_250926", COIN_M),
    ],
)
def test_futures_symbol_implies_its_market(symbol: str, venue: Venue) -> None:
    assert venue_of(symbol) is venue
    assert venue_of(symbol, Family.SPOT) is SPOT


def test_markets_have_different_addresses_and_only_futures_share_a_lake() -> None:
    assert set(VENUES) == set(Market)
    for name in ("exchange", "ws_base_url", "rest_base_url", "rest_path", "archive_path"):
        assert len({getattr(venue, name) for venue in VENUES.values()}) == 3, name
    assert exchanges_of(Family.FUTURES) == ("binance_futures_coin", "binance_futures")
    assert exchanges_of(Family.SPOT) == ("binance_spot",)


def test_weight_of_klines_depends_on_the_limit() -> None:
    assert [USD_M.weights.of_klines(limit) for limit in (99, 100, 499, 500, 1_000, 1_001)] == [1, 2, 2, 5, 5, 10]
    assert SPOT.weights.of_klines(1_000) == 2


def test_addresses_follow_the_market_setting() -> None:
    live = {market: load_settings(market=market, source="binance") for market in Market}
    assert live[Market.USD_M].ws_url + live[Market.USD_M].venue.ws_path == "wss://fstream.binance.com/market/stream"
    assert live[Market.COIN_M].ws_url + live[Market.COIN_M].venue.ws_path == "wss://dstream.binance.com/stream"
    assert live[Market.SPOT].ws_url + live[Market.SPOT].venue.ws_path == "wss://stream.binance.com:9443/stream"
    assert [live[market].rest_url + live[market].venue.rest_path for market in Market] == [
        "https://fapi.binance.com/fapi/v1",
        "https://dapi.binance.com/dapi/v1",
        "https://api.binance.com/api/v3",
    ]
    assert resolve_subscriptions(live[Market.COIN_M]).symbols == ("BTCUSD_PERP", "ETHUSD_PERP")
    with pytest.raises(SettingsError, match="CRYPTOLAKE_MARKET"):
        load_settings(market="options")
    with pytest.raises(SettingsError, match="no quote volume"):
        resolve_subscriptions(load_settings(market="coinm", symbols="top:5", source="binance"))


def test_capture_is_replayed_only_as_its_own_market(tmp_path: Path) -> None:
    assert captured_markets(DEMO_CAPTURE_DIR) == {Market.USD_M: DEMO_CAPTURE_DIR}
    coin_capture(tmp_path, 50)
    assert captured_markets(tmp_path) == {Market.COIN_M: tmp_path}
    assert resolve_subscriptions(load_settings(replay_dir=tmp_path, market="coinm")).symbols == (COIN_SYMBOL,)
    spot = load_settings(replay_dir=tmp_path, market="spot")
    message = "has captures of Binance COIN-M futures, but not of Binance Spot. Set CRYPTOLAKE_MARKETS to coinm"
    with pytest.raises(CaptureError, match=message):
        resolve_subscriptions(spot)
    (tmp_path / MARKET_FILE).write_text("options")
    with pytest.raises(CaptureError, match="does not name a market"):
        capture_directory(spot)


def test_recording_stores_its_market(tmp_path: Path) -> None:
    spot = load_settings(market="spot")
    assert recording_directory(spot, tmp_path) == tmp_path
    write_market(tmp_path, Market.SPOT)
    assert captured_markets(tmp_path) == {Market.SPOT: tmp_path}
    write_market(tmp_path, Market.SPOT)
    with pytest.raises(CaptureError, match="names the market spot, not usdm"):
        write_market(tmp_path, Market.USD_M)
    spot_capture(tmp_path)
    assert recording_directory(spot, tmp_path) == tmp_path
    with pytest.raises(CaptureError, match=r"captures of Binance Spot only\. Record Binance USD-M futures to another"):
        recording_directory(load_settings(market="usdm"), tmp_path)
    several = load_settings(markets="usdm,spot")
    with pytest.raises(CaptureError, match="Record several markets to another directory"):
        recording_directory(several, tmp_path)
    assert recording_directory(several, tmp_path / "new") == tmp_path / "new" / "usdm"
    spot_capture(tmp_path / "new" / "spot")
    assert recording_directory(load_settings(market="usdm"), tmp_path / "new") == tmp_path / "new" / "usdm"


def test_spot_trades_without_a_type_are_market_trades(tmp_path: Path) -> None:
    events = spot_capture(tmp_path)
    frames = [frame.raw for frame in read_frames(tmp_path)]
    assert len(frames) == len(events)
    assert set(json.loads(frames[0])["data"]) == {"e", "E", "s", "t", "p", "q", "T", "m", "M"}
    spot = parse_frame(frames[0], ingest_time_us=1, exchange=SPOT.exchange, unnamed_trade_type=SPOT.unnamed_trade_type)
    assert isinstance(spot, AcceptedFrame)
    assert (spot.event.exchange, spot.event.trade_type, spot.event.stream) == ("binance_spot", "MARKET", "trade")
    future = parse_frame(frames[0], ingest_time_us=1, exchange=USD_M.exchange)
    assert isinstance(future, AcceptedFrame)
    assert future.event.trade_type == "NA"
    # Times in microseconds (timeUnit=MICROSECOND) are rejected, not read as the year 56000.
    micro = json.loads(frames[0])
    micro["data"]["T"] *= 1_000
    rejected = parse_frame(json.dumps(micro), ingest_time_us=1, exchange=SPOT.exchange)
    assert isinstance(rejected, RejectedFrame)
    assert rejected.reason.startswith("out_of_range")


@pytest.mark.parametrize("market", [Market.COIN_M, Market.SPOT])
def test_rest_client_reads_a_capture_of_the_market(tmp_path: Path, market: Market) -> None:
    venue = VENUES[market]
    made = coin_capture(tmp_path) if market is Market.COIN_M else None
    if made is None:
        spot_capture(tmp_path)
    symbol = venue.live_symbols[0]
    with ServedExchange(tmp_path, HISTORY_MS) as url, AggregatesRest(url, venue=venue) as rest:
        assert rest.time_ms() == HISTORY_MS
        info = rest.exchange_info()
        assert symbol in info.symbol_names
        assert {entry.status for entry in info.symbols} == {"TRADING"}
        first_ms = made[0].time_ms if made is not None else 1_721_347_022_708
        klines = rest.klines(symbol, "1m", first_ms - first_ms % 60_000, first_ms + 600_000)
        if made is not None:
            assert rest.agg_trades(symbol, made[0].agg_id, made[-1].agg_id)[-1].price == made[-1].price
            aggregates = list(rest.agg_trades_between(symbol, made[0].time_ms, made[-1].time_ms))
            assert [row.agg_trade_id for row in aggregates] == [row.agg_id for row in made]
        assert klines
        with pytest.raises(UnknownSymbolError, match="CRYPTOLAKE_MARKET"):
            rest.klines("NOPEUSDT", "1m", 0, 60_000)
        # Paths of other markets are not served.
        for other in VENUES.values():
            status = httpx.get(f"{url}{other.rest_path}/time").status_code
            assert status == (200 if other is venue else 404)
        used = httpx.get(f"{url}{venue.rest_path}/exchangeInfo").headers["X-MBX-USED-WEIGHT-1M"]
        assert int(used) >= venue.weights.exchange_info


async def test_asyncio_client_and_websocket_read_spot(tmp_path: Path) -> None:
    spot_capture(tmp_path)
    async with ReplayExchange(tmp_path, speed=0).running() as exchange:
        async with AsyncExchangeRest(exchange.url, venue=SPOT) as rest:
            assert "BTCUSDT" in (await rest.exchange_info()).symbol_names
        async with httpx.AsyncClient(base_url=exchange.url) as client:
            assert list((await client.get("/replay/status")).json()["markets"]) == ["spot"]
            for path in ("/market/stream", "/public/stream"):
                assert (await client.get(path)).status_code == 404
        async with open_socket(exchange, f"{SPOT.ws_path}?streams=btcusdt@trade") as socket:
            assert json.loads(await socket.recv())["data"]["M"] is True


def test_historical_trades_of_spot_are_served_by_id(tmp_path: Path) -> None:
    first = spot_capture(tmp_path)[0]
    query: dict[str, str | int] = {"symbol": first["s"], "fromId": first["t"], "limit": 1}
    with ServedExchange(tmp_path, HISTORY_MS) as url:
        found = httpx.get(f"{url}/api/v3/historicalTrades", params=query, headers={"X-MBX-APIKEY": "a"})
    (row,) = found.json()
    assert (row["id"], row["price"], row["qty"], row["time"]) == (first["t"], first["p"], first["q"], first["T"])


def test_window_of_aggregates_is_limited_to_an_hour_in_futures_only(tmp_path: Path) -> None:
    coin = tmp_path / "coin"
    rows = coin_capture(coin)
    start_ms = rows[0].time_ms
    window: dict[str, str | int] = {"symbol": COIN_SYMBOL, "startTime": start_ms, "endTime": start_ms + 7_200_000}
    with ServedExchange(coin, HISTORY_MS) as url:
        rejected = httpx.get(f"{url}/dapi/v1/aggTrades", params=window)
        assert (rejected.status_code, rejected.json()["code"]) == (400, -1127)
    spot = tmp_path / "spot"
    spot_capture(spot)
    with ServedExchange(spot, HISTORY_MS) as url:
        found = httpx.get(f"{url}/api/v3/aggTrades", params=window | {"symbol": "BTCUSDT"})
        assert found.status_code == 200


def test_coin_m_klines_page_from_the_newest_and_paging_finds_all(tmp_path: Path) -> None:
    rows = coin_capture(tmp_path)
    first_ms = rows[0].time_ms - rows[0].time_ms % 60_000
    with ServedExchange(tmp_path, HISTORY_MS) as url:
        params: dict[str, str | int] = {"symbol": COIN_SYMBOL, "interval": "1m", "limit": 2}
        params |= {"startTime": first_ms, "endTime": HISTORY_MS}
        page = httpx.get(f"{url}/dapi/v1/klines", params=params).json()
        with ExchangeRest(url, venue=COIN_M) as rest:
            found = rest.klines(COIN_SYMBOL, "1m", first_ms, first_ms + 6 * 3_600_000)
    assert [kline.open_time_ms for kline in found] == sorted({row.time_ms - row.time_ms % 60_000 for row in rows})
    assert [row[0] for row in page] == [kline.open_time_ms for kline in found[-2:]]


def test_symbol_status_is_read_from_either_field() -> None:
    info = parse_exchange_info(b'{"symbols":[{"symbol":"BTCUSD_PERP","contractStatus":"TRADING"}]}')
    assert info.symbols[0].status == "TRADING"


def test_documentation_of_markets_equals_their_table() -> None:
    """Compare each market's column in docs/markets.md with its `Venue`."""
    lines = (PROJECT_ROOT / "docs/markets.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    cells_by_row = {row[0]: row[1:] for row in rows if len(row) == 4}
    for number, venue in enumerate(VENUES[market] for market in Market):
        cells_of_venue = {name: cells[number].strip("`") for name, cells in cells_by_row.items()}
        assert cells_of_venue["market"] == venue.title
        assert cells_of_venue["`exchange` of the rows"] == venue.exchange
        assert cells_of_venue["default symbols"] == ", ".join(venue.live_symbols)
        assert cells_of_venue["streams"] == f"{venue.ws_base_url}{venue.ws_path}"
        assert cells_of_venue["REST"] == f"{venue.rest_base_url}{venue.rest_path}"
        assert cells_of_venue["weight per minute"] == f"{venue.weights.per_minute:,}"
        assert cells_of_venue["… of a page of aggregates"] == str(venue.weights.agg_trades)
        assert cells_of_venue["… of exchangeInfo"] == str(venue.weights.exchange_info)
        assert cells_of_venue["largest page of klines"].startswith(f"{venue.max_klines:,}")
        assert cells_of_venue["archive"] == venue.archive_path
        assert cells_of_venue["quantity and volume"] == venue.qty_unit
        assert cells_of_venue["quote volume of klines"] == venue.kline_quote_volume
