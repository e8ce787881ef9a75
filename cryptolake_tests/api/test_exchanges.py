"""One symbol on several exchanges in one lake: which one answers, and that their rows never mix."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, ipc, parquet
from websockets.asyncio.client import connect

from cryptolake_assets import client
from cryptolake_assets.api.table_routes import TABLE_ROUTES
from cryptolake_assets.lake import pages
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.derivatives_tables import SILVER_FUNDING
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FUTURES
from cryptolake_assets.model.markets import COIN_M, EXCHANGES, Family, Market
from cryptolake_assets.model.mart_tables import BARS_OF_TIMEFRAMES
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.settings import PROJECT_ROOT, Settings
from cryptolake_tests.support.api import (
    DAYS,
    FIRST_DAY,
    FUTURES_EXCHANGE,
    MINUTES,
    SPOT_EXCHANGE,
    Api,
    append,
    bar,
    make_marts,
    put,
    put_days,
    serving,
    starts,
    trade,
)
from cryptolake_tests.support.documents import commands
from cryptolake_tests.support.lakes import open_copy

SPOT = FAMILY_TABLES[Family.SPOT]
COIN_EXCHANGE = COIN_M.exchange
BARS = "/ohlcv/1m?symbol=BTCUSDT"
WAIT_S = 20


def put_markets(lake: Settings) -> None:
    """Add BTCUSDT and SOLUSDT of Spot and BTCUSD_PERP of COIN-M to BTCUSDT and ETHUSDT of USD-M."""
    topics = [(SPOT_EXCHANGE, "BTCUSDT"), (SPOT_EXCHANGE, "SOLUSDT")]
    rows = [bar(symbol, start, exchange=name, close=Decimal(7)) for name, symbol in topics for start in starts()]
    append(lake, SPOT.bars, [{**row, "updated_at": FIRST_DAY} for row in rows])
    put(lake, [bar("BTCUSD_PERP", starts()[0], exchange=COIN_EXCHANGE)])


def markets(first: Market) -> dict[str, Any]:
    """Return the settings of a platform of all markets with this default."""
    return {"market": first, "markets": tuple(dict.fromkeys((first, *Market)))}


@pytest.fixture
def bars(bars: Settings) -> Settings:
    put_markets(bars)
    return bars


@pytest.fixture
def api(bars: Settings) -> Iterator[Api]:
    with serving(bars, **markets(Market.USD_M)) as made:
        yield made


@pytest.fixture(scope="module")
def read_only(empty_lakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return a lake for read-only tests."""
    made = open_copy(empty_lakes, tmp_path_factory.mktemp("exchanges"))
    put_days(made)
    put_markets(made)
    return made


@pytest.fixture(scope="module", params=[Market.USD_M, Market.SPOT])
def each_default(request: pytest.FixtureRequest, read_only: Settings) -> Iterator[tuple[Market, Api]]:
    """Serve the lake with each default market."""
    with serving(read_only, **markets(request.param)) as made:
        yield request.param, made


@pytest.fixture(scope="module")
def shared_api(read_only: Settings) -> Iterator[Api]:
    with serving(read_only, **markets(Market.USD_M)) as made:
        yield made


def get(api: Api, query: str) -> Any:
    response = api.get(query)
    assert response.status_code == 200, response.text
    return response.json()


def closes(response: Any) -> set[bool]:
    """Return whether the bars are those of Spot."""
    return {Decimal(item["close"]) == 7 for item in response["bars"]}


@pytest.mark.parametrize(
    ("query", "of_usdm", "of_spot"),
    [
        ("symbol=BTCUSDT", FUTURES_EXCHANGE, SPOT_EXCHANGE),
        ("symbol=BTCUSDT&exchange=binance_spot", SPOT_EXCHANGE, SPOT_EXCHANGE),
        ("symbol=BTCUSDT&exchange=binance_futures", FUTURES_EXCHANGE, FUTURES_EXCHANGE),
        ("symbol=SOLUSDT", SPOT_EXCHANGE, SPOT_EXCHANGE),
        ("symbol=ETHUSDT", FUTURES_EXCHANGE, FUTURES_EXCHANGE),
        ("symbol=BTCUSD_PERP", COIN_EXCHANGE, COIN_EXCHANGE),
    ],
)
def test_default_market_answers_if_it_has_the_symbol(
    each_default: tuple[Market, Api], query: str, of_usdm: str, of_spot: str
) -> None:
    market, api = each_default
    answers = of_usdm if market is Market.USD_M else of_spot
    response = api.get(f"/ohlcv/1m?{query}")
    found = response.json()
    assert (found["exchange"], response.headers["x-exchange"]) == (answers, answers)
    assert {item["exchange"] for item in found["bars"]} == {answers}
    assert closes(found) == {answers == SPOT_EXCHANGE}
    readers: dict[str, Callable[[bytes], pa.Table]] = {
        "csv": lambda body: csv.read_csv(io.BytesIO(body)),
        "parquet": lambda body: parquet.read_table(io.BytesIO(body)),
        "arrow": lambda body: ipc.open_stream(body).read_all(),
    }
    for fmt, read in readers.items():
        response = api.get(f"/ohlcv/1m?{query}&format={fmt}")
        assert response.headers["x-exchange"] == answers
        assert set(read(response.content)["exchange"].to_pylist()) == {answers}
    lines = api.get(f"/ohlcv/1m?{query}&format=ndjson").text.splitlines()
    assert {json.loads(line)["exchange"] for line in lines} == {answers}


@pytest.mark.parametrize(
    ("query", "status", "code", "named"),
    [
        ("/ohlcv/1m?symbol=BTCUSDT&exchange=binance", 422, "invalid-parameter", tuple(EXCHANGES)),
        ("/symbols?exchange=spot", 422, "invalid-parameter", tuple(EXCHANGES)),
        ("/ohlcv/1m?symbol=ETHUSDT&exchange=binance_spot", 404, "unknown-symbol", (FUTURES_EXCHANGE, "/symbols")),
        ("/ohlcv/1m?symbol=BTCUSDT&exchange=binance_futures_coin", 404, "unknown-symbol", (SPOT_EXCHANGE, "/symbols")),
        ("/trades?symbol=NOPE&exchange=binance_spot", 404, "unknown-symbol", ("/symbols",)),
        ("/gaps?symbol=ETHUSDT&exchange=binance_spot", 404, "unknown-symbol", (FUTURES_EXCHANGE,)),
        ("/sse/ohlcv?symbols=ETHUSDT&exchange=binance_spot", 404, "unknown-symbol", (FUTURES_EXCHANGE,)),
        ("/sse/ohlcv?symbols=binance_spot:ETHUSDT", 404, "unknown-symbol", (FUTURES_EXCHANGE,)),
        ("/sse/ohlcv?symbols=binance:ETHUSDT", 422, "invalid-parameter", tuple(EXCHANGES)),
    ],
)
def test_rejection_names_what_exists(
    shared_api: Api, query: str, status: int, code: str, named: tuple[str, ...]
) -> None:
    response = shared_api.get(query)
    assert (response.status_code, response.json()["type"]) == (status, f"urn:cryptolake:problem:{code}")
    assert all(name in response.text for name in named)


def test_symbols_lists_every_exchange_and_the_answering_one_first(shared_api: Api) -> None:
    rows = get(shared_api, "/symbols")["symbols"]
    assert [(row["exchange"], row["symbol"], row["bars"]) for row in rows] == [
        (FUTURES_EXCHANGE, "BTCUSDT", DAYS * MINUTES),
        (FUTURES_EXCHANGE, "ETHUSDT", DAYS * MINUTES),
        (COIN_EXCHANGE, "BTCUSD_PERP", 1),
        (SPOT_EXCHANGE, "BTCUSDT", DAYS * MINUTES),
        (SPOT_EXCHANGE, "SOLUSDT", DAYS * MINUTES),
    ]
    assert get(shared_api, "/symbols?exchange=binance_spot")["symbols"] == rows[3:]


def test_caches_and_etags_never_mix_exchanges(api: Api, bars: Settings) -> None:
    queries = {
        FUTURES_EXCHANGE: [BARS, f"{BARS}&exchange={FUTURES_EXCHANGE}"],
        SPOT_EXCHANGE: [f"{BARS}&exchange={SPOT_EXCHANGE}"],
    }
    etags = {query: api.get(query).headers["etag"] for of_one in queries.values() for query in of_one}
    assert len(set(etags.values())) == 3
    put(bars, [bar("BTCUSDT", starts()[0], exchange=SPOT_EXCHANGE, close=Decimal(8))])
    api.refresh()
    for exchange, of_one in queries.items():
        for query in of_one:
            response = api.get(query, headers={"If-None-Match": ", ".join(etags.values())})
            assert response.status_code == (304 if exchange == FUTURES_EXCHANGE else 200)
            assert get(api, query)["exchange"] == exchange
    assert get(api, f"{BARS}&exchange={SPOT_EXCHANGE}")["bars"][0]["close"] == "8.00000000"


def test_cached_response_ends_when_the_default_market_gains_the_symbol(api: Api, bars: Settings) -> None:
    query = "/ohlcv/1m?symbol=SOLUSDT"
    first = api.get(query)
    assert api.get(query).headers["x-exchange"] == SPOT_EXCHANGE
    put(bars, [bar("SOLUSDT", starts()[0])])
    api.refresh()
    changed = api.get(query, headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.headers["x-exchange"]) == (200, FUTURES_EXCHANGE)


@pytest.mark.parametrize("limit", [1, 5, DAYS * MINUTES])
def test_pages_stay_on_the_exchange_of_the_first(api: Api, bars: Settings, limit: int) -> None:
    query, found, cursor = f"/ohlcv/1m?symbol=SOLUSDT&limit={limit}", [], ""
    while True:
        page = get(api, query + cursor)
        assert (page["exchange"], closes(page)) == (SPOT_EXCHANGE, {True})
        found += page["bars"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        if len(found) == limit:  # the default market gains the symbol while it is read
            put(bars, [bar("SOLUSDT", starts()[0])])
            api.refresh()
    assert [datetime.fromisoformat(item["window_start"]) for item in found] == starts()


def test_cursor_of_another_exchange_is_rejected(shared_api: Api) -> None:
    cursor = get(shared_api, f"{BARS}&exchange=binance_spot&limit=1")["next_cursor"]
    rejected = shared_api.get(f"{BARS}&exchange=binance_futures&limit=1&cursor={cursor}")
    assert (rejected.status_code, rejected.json()["title"]) == (400, "Cursor of another request")


def day(exchange: str, symbol: str, number: int) -> dict[str, Any]:
    return {
        **{"exchange": exchange, "symbol": symbol, "trade_date": (FIRST_DAY + timedelta(days=number)).date()},
        **{"close": Decimal(number + 1), "trades": 1, "updated_at": FIRST_DAY},
    }


def put_gold(bars: Settings) -> list[tuple[str, str, str]]:
    """Publish days of both families; return their keys in order."""
    for number in range(DAYS):
        append(bars, FUTURES.daily, [day(FUTURES_EXCHANGE, name, number) for name in ("BTCUSDT", "ETHUSDT")])
        append(bars, SPOT.daily, [day(SPOT_EXCHANGE, name, number) for name in ("BTCUSDT", "SOLUSDT")])
    pairs = [
        (FUTURES_EXCHANGE, "BTCUSDT"),
        (FUTURES_EXCHANGE, "ETHUSDT"),
        (SPOT_EXCHANGE, "BTCUSDT"),
        (SPOT_EXCHANGE, "SOLUSDT"),
    ]
    days = [date(2025, 1, 30) + timedelta(days=number) for number in range(DAYS)]
    return [(each.isoformat(), *pair) for each in days for pair in pairs]


def test_list_without_exchange_pages_over_all(api: Api, bars: Settings) -> None:
    expected = put_gold(bars)
    api.refresh()
    for order, limit in product(("asc", "desc"), (1, 3, 4, 5, 100)):
        found, cursor = [], ""
        while True:
            page = get(api, f"/stats/daily?order={order}&limit={limit}{cursor}")
            assert page["exchange"] is None
            found += [(item["trade_date"], item["exchange"], item["symbol"]) for item in page["days"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert found == (expected if order == "asc" else expected[::-1]), (order, limit)


def test_list_of_an_exchange_and_of_a_symbol(api: Api, bars: Settings) -> None:
    expected = put_gold(bars)
    api.refresh()
    for query, exchange, symbols in (
        ("?exchange=binance_spot", SPOT_EXCHANGE, {"BTCUSDT", "SOLUSDT"}),
        ("?symbol=BTCUSDT", FUTURES_EXCHANGE, {"BTCUSDT"}),
        ("?symbol=SOLUSDT", SPOT_EXCHANGE, {"SOLUSDT"}),
    ):
        page = get(api, f"/stats/daily{query}")
        assert page["exchange"] == exchange
        keys = [(item["trade_date"], item["exchange"], item["symbol"]) for item in page["days"]]
        assert keys == [key for key in expected if key[1] == exchange and key[2] in symbols]
    assert len(api.get("/stats/daily?format=csv").text.splitlines()) == len(expected) + 1


def test_snapshot_of_a_list_identifies_the_state_of_both_families(api: Api, bars: Settings) -> None:
    put_gold(bars)
    api.refresh()
    before = get(api, "/stats/daily")
    etag = api.get("/stats/daily").headers["etag"]
    for spec, exchange in ((FUTURES.daily, FUTURES_EXCHANGE), (SPOT.daily, SPOT_EXCHANGE)):
        append(bars, spec, [day(exchange, "BTCUSDT", 9)])
        api.refresh()
        changed = api.get("/stats/daily", headers={"If-None-Match": etag})
        assert (changed.status_code, changed.json()["snapshot_id"]) != (304, before["snapshot_id"])
        etag = changed.headers["etag"]
    assert len(changed.json()["days"]) == len(before["days"]) + 2
    assert get(api, f"/stats/daily?as_of={before['snapshot_id']}") == before
    first = min(load_table(bars, FUTURES.daily).metadata.snapshots, key=lambda item: item.timestamp_ms)
    then = get(api, f"/stats/daily?as_of={first.snapshot_id}")
    assert {item["exchange"] for item in then["days"]} == {FUTURES_EXCHANGE}
    assert api.get("/stats/daily?as_of=5").status_code == 404


def test_filter_on_the_exchange_reads_only_its_table(shared_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = pages.read_page

    def noted(table: Any, *given: Any) -> Any:
        read.append(table.name()[-1])
        return original(table, *given)

    monkeypatch.setattr("cryptolake_assets.api.page_reader.read_page", noted)
    get(shared_api, f"{BARS}&exchange=binance_spot")
    get(shared_api, BARS)
    get(shared_api, "/stats/daily?exchange=binance_spot")
    get(shared_api, "/stats/daily")
    assert read == [
        *("spot_ohlcv_1m", "futures_ohlcv_1m"),
        *("spot_daily_stats", "futures_daily_stats", "spot_daily_stats"),
    ]


def test_trades_are_those_of_the_exchange(api: Api, bars: Settings) -> None:
    append(bars, FUTURES.trades, [trade("BTCUSDT", number, starts()[0]) for number in (1, 2)])
    append(
        bars, SPOT.trades, [{**trade("BTCUSDT", number, starts()[0]), "exchange": SPOT_EXCHANGE} for number in (2, 3)]
    )
    api.refresh()
    for query, exchange, ids in (("", FUTURES_EXCHANGE, [1, 2]), ("&exchange=binance_spot", SPOT_EXCHANGE, [2, 3])):
        page = get(api, f"/trades?symbol=BTCUSDT{query}")
        assert page["exchange"] == exchange
        assert [(item["exchange"], item["trade_id"]) for item in page["trades"]] == [(exchange, each) for each in ids]


def test_gaps_and_rejects_have_their_exchange(api: Api, bars: Settings) -> None:
    for exchange in (FUTURES_EXCHANGE, SPOT_EXCHANGE):
        row = {"exchange": exchange, "symbol": "BTCUSDT", "stream": "trade", "source": "x", "kafka_offset": 1}
        hours = (0, 2) if exchange == FUTURES_EXCHANGE else (1, 4)  # together they would leave only one gap
        for hour in hours:
            begin = FIRST_DAY + timedelta(hours=hour)
            span = {"connected_from": begin, "connected_to": begin + timedelta(hours=1)}
            append(bars, OPS_COVERAGE, [{**row, **span, "kafka_partition": 0, "updated_at": FIRST_DAY}])
    frame = {"raw": b"x", "stream": "trade", "ingest_ts": FIRST_DAY, "kafka_topic": "t", "kafka_timestamp": FIRST_DAY}
    append(bars, FUTURES.rejected, [{**frame, "reason": "not_json: 1"}])
    append(bars, SPOT.rejected, [{**frame, "reason": "not_json: 2"}] * 2)
    kafka = ("kafka_partition", "kafka_offset", "kafka_timestamp")
    for spec, exchange in ((FUTURES.quarantine, FUTURES_EXCHANGE), (SPOT.quarantine, SPOT_EXCHANGE)):
        row = {**trade("BTCUSDT", 1, FIRST_DAY), "exchange": exchange, "rule": "r", "run_id": "r", "source_snapshot": 1}
        append(bars, spec, [{name: value for name, value in row.items() if name not in kafka}])
    api.refresh()
    gaps = get(api, "/gaps")["gaps"]
    assert [(gap["exchange"], gap["gap_from"][11:13], gap["gap_to"][11:13]) for gap in gaps] == [
        (FUTURES_EXCHANGE, "01", "02"),
        (SPOT_EXCHANGE, "02", "04"),
    ]
    assert get(api, "/gaps?symbol=BTCUSDT")["gaps"] == gaps[:1]
    assert get(api, "/gaps?exchange=binance_spot")["gaps"] == gaps[1:]
    rejected = get(api, "/quality/rejected")["reasons"]
    assert [(row["exchange"], row["rows"]) for row in rejected] == [(SPOT_EXCHANGE, 2), (None, 1)]
    assert get(api, "/quality/rejected?exchange=binance_spot")["reasons"] == rejected[:1]
    quarantined = get(api, "/quality/quarantined")["reasons"]
    assert [(row["exchange"], row["rows"]) for row in quarantined] == [(FUTURES_EXCHANGE, 1), (SPOT_EXCHANGE, 1)]
    assert get(api, "/quality/quarantined?exchange=binance_futures_coin")["reasons"] == []


def test_futures_answer_for_tables_that_spot_does_not_have(bars: Settings) -> None:
    rate = {"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "funding_time": FIRST_DAY, "funding_rate": Decimal(0)}
    append(bars, SILVER_FUNDING, [rate])
    with serving(bars, **markets(Market.SPOT)) as api:
        page = get(api, "/funding?symbol=BTCUSDT")
        assert (page["exchange"], len(page["rates"])) == (FUTURES_EXCHANGE, 1)
        assert get(api, "/funding?symbol=BTCUSDT&exchange=binance_spot")["rates"] == []


async def test_websocket_follows_both_exchanges_of_a_symbol(bars: Settings) -> None:
    with serving(bars, api_refresh_s=0.05, **markets(Market.USD_M)) as api:
        topics = "binance_futures:BTCUSDT,binance_spot:btcusdt"
        async with (
            connect(f"{api.ws_url}/ws/ohlcv?symbols={topics}") as both,
            connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT&exchange=binance_spot") as spot,
            connect(f"{api.ws_url}/ws/ohlcv?symbols=BTCUSDT") as default,
        ):

            async def received(socket: Any) -> tuple[str, list[tuple[str, str]]]:
                message = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))
                return message["type"], [(item["exchange"], item["close"]) for item in message["bars"]]

            kind, first = await received(both)
            assert (kind, [exchange for exchange, _ in first]) == (
                "snapshot",
                [FUTURES_EXCHANGE, FUTURES_EXCHANGE, SPOT_EXCHANGE, SPOT_EXCHANGE],
            )
            assert "7.00000000" not in (first[0][1], first[1][1])
            assert (await received(spot))[1] == [(SPOT_EXCHANGE, "7.00000000")] * 2
            assert [exchange for exchange, _ in (await received(default))[1]] == [FUTURES_EXCHANGE] * 2
            put(bars, [bar("BTCUSDT", starts()[0], exchange=SPOT_EXCHANGE, close=Decimal(8))])
            assert await received(both) == await received(spot) == ("bars", [(SPOT_EXCHANGE, "8.00000000")])
            put(bars, [bar("BTCUSDT", starts()[0], close=Decimal(9))])
            assert await received(both) == await received(default) == ("bars", [(FUTURES_EXCHANGE, "9.00000000")])


def test_client_takes_the_exchange(shared_api: Api) -> None:
    assert set(client.ohlcv("BTCUSDT", url=shared_api.url)["exchange"]) == {FUTURES_EXCHANGE}
    spot = client.ohlcv("BTCUSDT", exchange=SPOT_EXCHANGE, url=shared_api.url)
    assert (set(spot["exchange"]), set(spot["close"])) == ({SPOT_EXCHANGE}, {Decimal(7)})


def test_every_route_of_market_rows_takes_the_exchange(shared_api: Api) -> None:
    document = get(shared_api, "/openapi.json")
    with_exchange = {
        path
        for path, operations in document["paths"].items()
        if any(parameter["name"] == "exchange" for parameter in operations["get"].get("parameters", ()))
    }
    of_markets = {route.route for route in TABLE_ROUTES if "exchange" in route.table.column_names}
    others = {"/symbols", "/gaps", "/quality/rejected", "/quality/quarantined", "/sse/ohlcv"}
    assert with_exchange == of_markets | others


def test_metrics_name_the_exchange(shared_api: Api) -> None:
    lines = shared_api.get("/metrics").text.splitlines()
    rows = {line.partition('"')[2].partition('"')[0] for line in lines if line.startswith("cryptolake_table_rows{")}
    assert rows == {"cryptolake.silver.futures_ohlcv_1m", "cryptolake.silver.spot_ohlcv_1m"}


def test_documented_queries_compare_spot_with_the_perpetual(bars: Settings) -> None:
    make_marts(bars)
    start = starts()[0]
    closes_of = {(SPOT_EXCHANGE, "BTCUSDT"): 7, (FUTURES_EXCHANGE, "BTCUSDT"): 8, (COIN_EXCHANGE, "BTCUSD_PERP"): 9}
    rows = [
        {"exchange": exchange, "symbol": symbol, "window_start": start, "close": Decimal(close)}
        for (exchange, symbol), close in closes_of.items()
    ]
    append(bars, BARS_OF_TIMEFRAMES[0], rows)
    words = commands(PROJECT_ROOT / "docs/api.md")
    of_all, of_minutes = [given[2] for given in words if given[0].endswith("cryptolake") and given[1] == "sql"]
    (row,) = run_sql(bars, of_all).to_pylist()
    assert row == {"window_start": start, "spot": 7, "perpetual": 8, "coin_perpetual": 9}
    found = run_sql(bars, of_minutes).to_pylist()
    assert [(row["window_start"], row["spot"]) for row in found] == [(each, 7) for each in starts()]
    assert all(row["basis"] == row["perpetual"] - 7 and row["is_complete"] for row in found)


def test_files_from_before_bars_had_an_exchange_are_not_an_error(api: Api, bars: Settings) -> None:
    """Snapshots of an earlier release have such files, and `as_of=` may request one."""
    table = load_table(bars, FUTURES.bars)
    of_day = "symbol = 'BTCUSDT' and window_start < '2025-01-31T00:00:00+00:00'"
    rows = table.scan(row_filter=of_day).to_arrow().drop_columns("exchange")
    path = str(bars.home / "old.parquet")
    parquet.write_table(rows, path)
    table.add_files([path])
    api.refresh()
    found = get(api, "/symbols?exchange=binance_futures")["symbols"]
    assert [(row["symbol"], row["bars"]) for row in found] == [
        (name, DAYS * MINUTES) for name in ("BTCUSDT", "ETHUSDT")
    ]
    assert len(get(api, BARS)["bars"]) == DAYS * MINUTES
