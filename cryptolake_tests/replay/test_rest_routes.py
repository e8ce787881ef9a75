"""The replay exchange's REST routes over real sockets: the exchange's formats, from recorded files only."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.markets import Market
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import agg_trade_frame, depth_frame, trade_frame, write_capture
from cryptolake_tests.support.sockets import NOON_MS, numbered_capture, open_socket, take, until

FIRST_OPEN_MS = 1_721_346_960_000
BTC_1M = {"symbol": "BTCUSDT", "interval": "1m"}


@pytest.fixture
async def demo() -> AsyncIterator[tuple[ReplayExchange, httpx.AsyncClient]]:
    exchange = ReplayExchange(DEMO_CAPTURE_DIR, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as client:
        yield exchange, client


async def _play(exchange: ReplayExchange) -> None:
    """Receive the full capture, so that the clock is at its end."""
    streams = "/".join(f"{symbol.lower()}@none" for symbol in exchange.capture.summaries[Market.USD_M].symbols)
    async with open_socket(exchange, f"/stream?streams={streams}"):
        await until(lambda: exchange.status()["state"] == "finished")


async def _get(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    response = await client.get(f"/fapi/v1/{path}", params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def test_time_follows_the_replayed_clock(demo: tuple[ReplayExchange, httpx.AsyncClient]) -> None:
    exchange, client = demo
    assert await _get(client, "ping") == {}
    assert await _get(client, "time") == {"serverTime": 1_721_347_022_711}
    await _play(exchange)
    end = await _get(client, "time")
    assert end == {"serverTime": 1_721_347_502_284}
    assert end["serverTime"] >= exchange.capture.summaries[Market.USD_M].last_event_time_ms
    assert await _get(client, "time") == end


async def test_klines_are_the_official_rows_up_to_the_clock(demo: tuple[ReplayExchange, httpx.AsyncClient]) -> None:
    exchange, client = demo
    before = await _get(client, "klines", **BTC_1M)
    assert [row[0] for row in before] == [FIRST_OPEN_MS, FIRST_OPEN_MS + 60_000]
    await _play(exchange)
    rows = await _get(client, "klines", **BTC_1M)
    assert len(rows) == 10  # the eleventh opens after the capture's end
    expected = [FIRST_OPEN_MS, "63930.30", "63930.40", "63926.90", "63930.30", "11.123", FIRST_OPEN_MS + 59_999]
    assert rows[0] == [*expected, "711083.59740", 374, "2.836", "181300.87580", "0"]
    assert await _get(client, "klines", **BTC_1M, limit=3) == rows[-3:]
    assert await _get(client, "klines", **BTC_1M, startTime=rows[2][0], limit=3) == rows[2:5]
    window = {"startTime": rows[2][0], "endTime": rows[4][0]}
    assert await _get(client, "klines", **BTC_1M, **window) == rows[2:5]
    assert await _get(client, "klines", **BTC_1M, endTime=rows[4][0] - 1, limit=2) == rows[2:4]
    assert await _get(client, "klines", symbol="BTCUSDT", interval="5m") == []


async def test_aggregates_are_never_derived_from_trades(demo: tuple[ReplayExchange, httpx.AsyncClient]) -> None:
    exchange, client = demo
    await _play(exchange)
    assert await _get(client, "aggTrades", symbol="BTCUSDT") == []
    assert await _get(client, "aggTrades", symbol="BTCUSDT", fromId=0) == []


async def test_aggregates_are_served_from_frames_and_files(tmp_path: Path) -> None:
    """Frames have the ids 0 to 9, the exchange's file 5 to 14; 12 to 14 are later than the end of the capture."""
    frames: list[tuple[int, str]] = []
    for i in range(10):
        frames += [((NOON_MS + i * 10) * 10**6, agg_trade_frame("BTCUSDT", i, NOON_MS + i * 10))]
    frames += [((NOON_MS + 119) * 10**6, trade_frame("BTCUSDT", 1, NOON_MS + 119))]
    write_capture(
        tmp_path / "a.ndjson", [*frames, (frames[-1][0], '{"stream":"x","data":{"e":"aggTrade","a":"broken"}}')]
    )
    (tmp_path / "BTCUSDT-aggTrades-2023-11-15.csv").write_text(
        "".join(f"{i},100.0,1,{i * 2},{i * 2 + 1},{NOON_MS + i * 10},false\n" for i in range(5, 15))
    )
    exchange = ReplayExchange(tmp_path, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as client:

        async def ids(**params: int) -> list[int]:
            return [row["a"] for row in await _get(client, "aggTrades", symbol="BTCUSDT", **params)]

        assert await ids(fromId=0) == [0]  # the clock waits at the first frame
        await _play(exchange)
        assert await ids() == list(range(12))
        assert await ids(limit=3) == [9, 10, 11]
        assert await ids(fromId=4, limit=3) == [4, 5, 6]
        assert await ids(fromId=12) == []
        assert await ids(startTime=NOON_MS + 20, endTime=NOON_MS + 40) == [2, 3, 4]
        assert await ids(startTime=NOON_MS + 95) == [10, 11]
        assert await ids(endTime=NOON_MS + 25, limit=2) == [1, 2]
        (row,) = await _get(client, "aggTrades", symbol="BTCUSDT", fromId=3, limit=1)
        assert row == {"a": 3, "p": "100.0", "q": "1", "f": 6, "l": 7, "T": NOON_MS + 30, "m": False}


async def test_aggregate_id_without_a_trade_is_served_as_recorded(tmp_path: Path) -> None:
    sentinel = {"e": "aggTrade", "E": NOON_MS, "s": "BTCUSDT", "a": 2, "p": "0.00", "q": "0", "f": -1, "l": -1}
    frames = [agg_trade_frame("BTCUSDT", 1, NOON_MS), json.dumps(sentinel | {"T": NOON_MS, "m": False})]
    write_capture(tmp_path / "a.ndjson", [(NOON_MS * 10**6, raw) for raw in frames])
    exchange = ReplayExchange(tmp_path, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as client:
        await _play(exchange)
        (row,) = await _get(client, "aggTrades", symbol="BTCUSDT", fromId=2)
        assert row == {"a": 2, "p": "0.00", "q": "0", "f": -1, "l": -1, "T": NOON_MS, "m": False}


async def _historical(client: httpx.AsyncClient, **params: Any) -> Any:
    params = {"symbol": "BTCUSDT"} | params
    response = await client.get("/fapi/v1/historicalTrades", params=params, headers={"X-MBX-APIKEY": "any"})
    return response.json()


async def test_historical_trades_require_a_key_and_exclude_other_trade_types(tmp_path: Path) -> None:
    """Trades 0 to 9: 3 is of the insurance fund, 4 has no type, 5 is invalid, 9 is later than the capture."""
    frames = [trade_frame("BTCUSDT", i, NOON_MS + i * 10, "0.1", "0.00000003", is_buyer_maker=i == 1) for i in range(9)]
    frames[3] = frames[3].replace('"MARKET"', '"INSURANCE_FUND"')
    frames[4] = frames[4].replace('"X":"MARKET",', "")
    frames[5] = frames[5].replace('"p":"0.1"', '"p":"x"')
    late = trade_frame("BTCUSDT", 9, NOON_MS + 700_000).replace(f'"E":{NOON_MS + 700_000}', f'"E":{NOON_MS + 90}')
    write_capture(
        tmp_path / "a.ndjson", [((NOON_MS + i * 10) * 10**6, raw) for i, raw in enumerate([*frames, late, late])]
    )
    exchange = ReplayExchange(tmp_path, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as client:

        async def ids(**params: int) -> list[int]:
            return [row["id"] for row in await _historical(client, **params)]

        assert await ids(fromId=0) == [0]  # the clock waits at the first frame
        await _play(exchange)
        assert await ids() == [0, 1, 2, 6, 7, 8]
        assert await ids(limit=2) == [7, 8]
        assert await ids(fromId=2, limit=3) == [2, 6, 7]
        assert await ids(fromId=9) == []
        row = {"id": 1, "price": "0.1", "qty": "0.00000003", "quoteQty": "0.000000003", "time": NOON_MS + 10}
        assert await _historical(client, fromId=1, limit=1) == [row | {"isBuyerMaker": True}]
        assert (await _historical(client, limit=501))["code"] == -1130
        assert (await _historical(client, symbol="NOPE"))["code"] == -1121
        for headers in ({}, {"X-MBX-APIKEY": ""}):
            rejected = await client.get("/fapi/v1/historicalTrades", params={"symbol": "BTCUSDT"}, headers=headers)
            assert rejected.status_code == 401
            assert rejected.json() == {"code": -2014, "msg": "API-key format invalid."}
        assert int(rejected.headers["X-MBX-USED-WEIGHT-1M"]) >= 20


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("klines", {"interval": "1m"}, -1102),
        ("klines", {"symbol": "", "interval": "1m"}, -1102),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "NOPE", "interval": "1m"}, -1121),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {**BTC_1M, "limit": 1_501}, -1130),
        ("klines", {**BTC_1M, "limit": 0}, -1130),
        ("klines", {**BTC_1M, "startTime": "noon"}, -1100),
        ("klines", {**BTC_1M, "startTime": "9" * 40}, -1100),
        ("klines", {**BTC_1M, "startTime": 2, "endTime": 1}, -1023),
        ("aggTrades", {}, -1102),
        ("aggTrades", {"symbol": "NOPE"}, -1121),
        ("aggTrades", {"symbol": "BTCUSDT", "limit": 1_001}, -1130),
        ("aggTrades", {"symbol": "BTCUSDT", "fromId": 1, "startTime": 1}, -1128),
        ("aggTrades", {"symbol": "BTCUSDT", "startTime": 0, "endTime": 3_600_001}, -1127),
    ],
)
async def test_errors_have_the_format_of_the_exchange(
    demo: tuple[ReplayExchange, httpx.AsyncClient], path: str, params: dict[str, Any], code: int
) -> None:
    response = await demo[1].get(f"/fapi/v1/{path}", params=params)
    assert response.status_code == 400
    assert response.json()["code"] == code
    assert response.json()["msg"]


async def test_unknown_path_is_404_and_responses_report_the_used_weight(
    demo: tuple[ReplayExchange, httpx.AsyncClient],
) -> None:
    response = await demo[1].get("/fapi/v1/dance")
    assert (response.status_code, response.json()["code"]) == (404, -5000)
    response = await demo[1].get("/fapi/v1/aggTrades", params={"symbol": "BTCUSDT"})
    assert int(response.headers["X-MBX-USED-WEIGHT-1M"]) >= 20


async def test_exchange_info_lists_the_capture(tmp_path: Path, demo: tuple[ReplayExchange, httpx.AsyncClient]) -> None:
    info = await _get(demo[1], "exchangeInfo")
    assert [(s["symbol"], s["baseAsset"], s["quoteAsset"], s["status"]) for s in info["symbols"]] == [
        ("ETHUSDT", "ETH", "USDT", "TRADING"),
        ("BTCUSDT", "BTC", "USDT", "TRADING"),
    ]
    assert info["serverTime"] == 1_721_347_022_711
    recorded = {"timezone": "UTC", "symbols": [{"symbol": s, "pricePrecision": 2} for s in ("ADAUSDT", "BTCUSDT")]}
    (tmp_path / "exchangeInfo.json").write_text(json.dumps(recorded))
    exchange = ReplayExchange(numbered_capture(tmp_path, 1, 1), 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as client:
        assert (await _get(client, "exchangeInfo"))["symbols"] == [{"symbol": "BTCUSDT", "pricePrecision": 2}]


async def test_status_reports_capture_clock_and_frames(demo: tuple[ReplayExchange, httpx.AsyncClient]) -> None:
    exchange, client = demo
    status = (await client.get("/replay/status")).json()
    assert status == {
        "directory": str(DEMO_CAPTURE_DIR),
        "speed": 0,
        "state": "waiting",
        "clock_ms": 1_721_347_022_711,
        "first_event_time_ms": 1_721_347_022_708,
        "last_event_time_ms": 1_721_347_502_282,
        "frames_total": 24_356,
        "frames_passed": 0,
        "frames_sent": 0,
        "frames_sent_by_kind": {},
        "clients": 0,
        "markets": {
            "usdm": {
                "first_event_time_ms": 1_721_347_022_708,
                "last_event_time_ms": 1_721_347_502_282,
                "frames_total": 24_356,
                "frames_sent_by_kind": {},
                "symbols": ["ETHUSDT", "BTCUSDT"],
                "trade_streams": {"ETHUSDT": ["trade"], "BTCUSDT": ["trade"]},
            }
        },
    }
    async with open_socket(exchange, "/market/stream?streams=btcusdt@trade") as socket:
        await take(socket, 10_701)
        await until(lambda: exchange.status()["state"] == "finished")
        status = (await client.get("/replay/status")).json()
    assert (status["state"], status["frames_passed"], status["frames_sent"]) == ("finished", 24_356, 10_701)


async def test_damaged_klines_prevent_the_start(tmp_path: Path) -> None:
    shutil.copytree(DEMO_CAPTURE_DIR, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "BTCUSDT-1m-2024-07-18.official.csv").open("a") as file:
        file.write("1,2\n")
    with pytest.raises(CaptureError, match="line 13"):
        await ReplayExchange(tmp_path, 0).start()


async def test_depth_is_the_newest_recorded_snapshot_up_to_the_clock(tmp_path: Path) -> None:
    first, second = (
        f'{{"lastUpdateId":{number},"bids":[["99.5","1"]],"asks":[["100.5","2"]]}}' for number in (104, 204)
    )
    frames = [
        depth_frame("BTCUSDT", 100, 109, NOON_MS, 99),
        first,
        depth_frame("BTCUSDT", 200, 209, NOON_MS + 10, 109),
        second,
        trade_frame("BTCUSDT", 1, NOON_MS + 20),
    ]
    write_capture(tmp_path / "a.ndjson", (((NOON_MS + 10 * number) * 10**6, raw) for number, raw in enumerate(frames)))
    exchange = ReplayExchange(tmp_path, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as client:
        response = await client.get("/fapi/v1/depth", params={"symbol": "BTCUSDT", "limit": 1000})
        assert (response.status_code, response.json()["code"]) == (503, -1001)
        await _play(exchange)
        response = await client.get("/fapi/v1/depth", params={"symbol": "BTCUSDT", "limit": 1000})
        assert (response.status_code, response.text) == (200, second)
        assert int(response.headers["X-MBX-USED-WEIGHT-1M"]) >= 40
        response = await client.get("/fapi/v1/depth", params={"symbol": "BTCUSDT", "limit": 1001})
        assert (response.status_code, response.json()["code"]) == (400, -1130)
        response = await client.get("/fapi/v1/depth", params={"symbol": "ETHUSDT"})
        assert (response.status_code, response.json()["code"]) == (400, -1121)
