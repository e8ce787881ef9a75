"""The routes of the batch sources' tables: formats, pages, ranges, time travel and conditional requests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pyarrow import ipc, parquet

from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_COINGECKO_MARKETS, SILVER_FEAR_GREED
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import FIRST_DAY, FUTURES_EXCHANGE, Api, append, make_marts, serving

PRICE = Decimal("0.00000000000123456789012345")


def index(number: int) -> dict[str, Any]:
    day = (FIRST_DAY + timedelta(days=number)).date()
    return {"index_date": day, "value": 10 * number, "classification": "Fear", "updated_at": FIRST_DAY}


@pytest.fixture
def api(bars: Settings) -> Iterator[Api]:
    make_marts(bars)
    append(bars, SILVER_FEAR_GREED, [index(number) for number in range(5)])
    hours = [FIRST_DAY + timedelta(hours=hour) for hour in range(2)]
    coins = [
        {"snapshot_hour": hour, "coin_id": coin, "symbol": coin[:3], "name": coin, "price": PRICE, "market_cap_rank": 1}
        for hour in hours
        for coin in ("bitcoin", "0-5x-long")
    ]
    append(bars, SILVER_COINGECKO_MARKETS, coins)
    append(bars, SILVER_COINGECKO_GLOBAL, [{"snapshot_hour": hour, "btc_dominance": Decimal("57.5")} for hour in hours])
    with serving(bars) as made:
        yield made


def get(api: Api, path: str) -> dict[str, Any]:
    response = api.get(path)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_index_is_served_in_pages_ranges_and_formats(api: Api) -> None:
    all_days = get(api, "/sentiment")["days"]
    assert [day["value"] for day in all_days] == [0, 10, 20, 30, 40]
    assert all_days[0]["index_date"] == FIRST_DAY.date().isoformat()
    first = get(api, "/sentiment?limit=3&order=desc")
    rest = get(api, f"/sentiment?limit=3&order=desc&cursor={first['next_cursor']}")
    assert first["days"] + rest["days"] == all_days[::-1]
    start, end = all_days[1]["index_date"], all_days[2]["index_date"]
    assert get(api, f"/sentiment?start={start}&end={end}")["days"] == all_days[1:3]
    table = parquet.read_table(io.BytesIO(api.get("/sentiment?format=parquet").content))
    assert table.column("value").to_pylist() == [0, 10, 20, 30, 40]
    assert ipc.open_stream(api.get("/sentiment?format=arrow").content).read_all().to_pylist() == table.to_pylist()
    assert api.get("/sentiment?format=csv").text.splitlines()[1].startswith(f'"{all_days[0]["index_date"]}",0,"Fear"')
    assert len(api.get("/sentiment?format=ndjson").text.splitlines()) == 5


def test_index_supports_as_of_and_304_until_it_changes(api: Api, bars: Settings) -> None:
    before = api.get("/sentiment")
    same = api.get("/sentiment", headers={"If-None-Match": before.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    snapshot = load_table(bars, SILVER_FEAR_GREED).metadata.current_snapshot_id
    append(bars, SILVER_FEAR_GREED, [index(5)])
    api.refresh()
    changed = api.get("/sentiment", headers={"If-None-Match": before.headers["etag"]})
    assert (changed.status_code, len(changed.json()["days"])) == (200, 6)
    assert len(get(api, f"/sentiment?as_of={snapshot}")["days"]) == 5


def test_sentiment_market_has_the_index_per_symbol_and_day(api: Api, bars: Settings) -> None:
    table = get_catalog(bars).load_table(("marts", "sentiment_vs_market"))
    schema = table.schema().as_arrow()
    empty = dict.fromkeys(schema.names)
    rows = [
        {
            **empty,
            "exchange": FUTURES_EXCHANGE,
            "symbol": symbol,
            "trade_date": date(2025, 1, 30),
            "close": Decimal(1),
            "fear_greed": 74,
        }
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    import pyarrow as pa

    table.append(pa.Table.from_pylist(rows, schema=schema))
    api.refresh()
    (day,) = get(api, "/sentiment/market?symbol=ethusdt")["days"]
    assert (day["symbol"], day["fear_greed"], day["btc_dominance"]) == ("ETHUSDT", 74, None)
    assert len(get(api, "/sentiment/market")["days"]) == 2


def test_coins_have_every_digit_and_filter_by_id(api: Api) -> None:
    rows = get(api, "/coins")["coins"]
    assert [(row["snapshot_hour"], row["coin_id"]) for row in rows] == [
        (f"2025-01-30T0{hour}:00:00.000000Z", coin) for hour in range(2) for coin in ("0-5x-long", "bitcoin")
    ]
    one = get(api, "/coins?coin_id=bitcoin&order=desc&limit=1")["coins"]
    assert [row["price"] for row in one] == [f"{PRICE:f}"]
    assert datetime.fromisoformat(one[0]["snapshot_hour"]) == FIRST_DAY + timedelta(hours=1)
    assert get(api, "/coins?coin_id=nothing")["coins"] == []
    assert api.get("/coins?coin_id=a%20b").status_code == 422
    hours = get(api, "/coins/global")["hours"]
    assert [row["btc_dominance"] for row in hours] == ["57.50000000000000000000"] * 2
