"""The pages' API client, against a running API."""

from __future__ import annotations

import pytest

from cryptolake_assets import client
from cryptolake_assets.dashboard.lake import Lake
from cryptolake_assets.errors import ApiRejectedError, ApiUnreachableError
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import FIRST_DAY, Api, bar, make_marts, put, serving, starts


def lake_of(settings: Settings, api: Api) -> Lake:
    return Lake(settings.model_copy(update={"dashboard_api_url": api.url}))


def responses(api: Api, status: int) -> float:
    """Return the number of responses with this status that the API has sent for requests of bars."""
    label = f'route="/ohlcv/{{timeframe}}",status="{status}"'
    lines = api.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith(f"cryptolake_api_requests_total{{{label}}}")
    )


def test_repeated_read_gets_304_until_the_table_changes(bars: Settings, api: Api) -> None:
    lake = lake_of(bars, api)
    first = lake.read("/ohlcv/1m", symbol="BTCUSDT", limit=2)
    assert lake.read("/ohlcv/1m", symbol="BTCUSDT", limit=2) == first
    assert (responses(api, 200), responses(api, 304)) == (1, 1)
    put(bars, [bar(symbol, start, trades=7) for symbol in ("BTCUSDT", "ETHUSDT") for start in starts()[:4]])
    api.refresh()
    changed = lake.read("/ohlcv/1m", symbol="BTCUSDT", limit=2)
    assert [item["trades"] for item in changed["bars"]] == [7, 7]
    assert changed["snapshot_id"] != first["snapshot_id"]


def test_missing_table_is_none_and_other_rejections_raise(bars: Settings, api: Api) -> None:
    lake = lake_of(bars, api)
    assert lake.page("/ohlcv/1h", symbol="BTCUSDT") is None
    assert lake.table("/ohlcv/1h", symbol="BTCUSDT") is None
    make_marts(bars)
    api.refresh()
    assert lake.page("/ohlcv/1h", symbol="BTCUSDT") is not None
    with pytest.raises(ApiRejectedError, match="no data of NOPE") as rejection:
        lake.page("/ohlcv/1m", symbol="NOPE")
    assert (rejection.value.status, rejection.value.code) == (404, "unknown-symbol")


def test_files_have_every_bar_even_if_fetched_in_pages(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(bars) as api:
        expected = lake_of(bars, api).file("/ohlcv/1m", "csv", symbol="BTCUSDT", start=FIRST_DAY)
    assert expected.count(b"\n") == len(starts()) + 1
    monkeypatch.setattr(type(bars), "api_answer_bytes", property(lambda _: 1_500))
    monkeypatch.setattr(client, "PAGE_ROWS", 5)
    with serving(bars) as api:
        lake = lake_of(bars, api)
        assert lake.file("/ohlcv/1m", "csv", symbol="BTCUSDT") == expected
        table = lake.table("/ohlcv/1m", symbol="BTCUSDT")
        assert table is not None
        assert table["window_start"].to_pylist() == starts()
        assert lake.file("/ohlcv/1m", "parquet", symbol="BTCUSDT").startswith(b"PAR1")


def test_symbols_are_listed_once_the_lake_has_bars(lake: Settings) -> None:
    with serving(lake) as api:
        assert lake_of(lake, api).symbols() == []
        put(lake, [bar("BTCUSDT", start) for start in starts()[:2]])
        api.refresh()
        (symbol,) = lake_of(lake, api).symbols()
    assert (symbol["symbol"], symbol["first_minute"]) == ("BTCUSDT", "2025-01-30T00:00:00Z")


def test_health_is_returned_when_degraded(bars: Settings, api: Api) -> None:
    found = lake_of(bars, api).health()
    assert found["status"] == "degraded"
    assert {item["name"] for item in found["dependencies"] if item["state"] == "down"} >= {"producer", "bronze"}


def test_unreachable_api_raises(bars: Settings) -> None:
    lake = Lake(bars.model_copy(update={"dashboard_api_url": "http://127.0.0.1:9"}))
    with pytest.raises(ApiUnreachableError, match="cryptolake up"):
        lake.symbols()
