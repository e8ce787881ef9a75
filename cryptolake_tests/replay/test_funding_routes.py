"""The replay exchange's funding rates and open interest over real sockets: the exchange's formats and errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cryptolake_assets.errors import CaptureError
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_tests.support.captures import trade_frame, write_capture

RECORDED = Path(__file__).parents[1] / "ingest" / "recorded" / "binance"
NOON_MS = 1_702_296_000_000  # 2023-12-11
STEP_MS = 300_000


def rate(number: int) -> dict[str, Any]:
    return {"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingTime": NOON_MS + number * STEP_MS, "markPrice": "1"}


def statistic(number: int) -> dict[str, Any]:
    values = {"sumOpenInterest": str(number), "sumOpenInterestValue": "1"}
    return {"symbol": "BTCUSDT", **values, "timestamp": NOON_MS + number * STEP_MS}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A capture whose clock is at noon, with three rows of each history up to noon and two after it."""
    frames = [(NOON_MS * 10**6, trade_frame("BTCUSDT", 1, NOON_MS))]
    capture = write_capture(tmp_path / "frames.ndjson", frames)
    (capture / "funding_rate.json").write_text(json.dumps([rate(number) for number in range(-2, 3)]))
    (capture / "open_interest_history.json").write_text(json.dumps([statistic(number) for number in range(-2, 3)]))
    return capture


@pytest.fixture
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    exchange = ReplayExchange(directory, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as http:
        yield http


async def test_funding_rates_are_served_up_to_the_clock(client: httpx.AsyncClient) -> None:
    async def get(**params: Any) -> Any:
        response = await client.get("/fapi/v1/fundingRate", params={"symbol": "BTCUSDT", **params})
        return response.json()

    assert await get() == [rate(-2), rate(-1), rate(0)]
    assert await get(limit=2) == [rate(-1), rate(0)]
    assert await get(limit=2, startTime=0) == [rate(-2), rate(-1)]
    assert await get(startTime=NOON_MS - STEP_MS, endTime=NOON_MS - 1) == [rate(-1)]
    assert await get(symbol="ETHUSDT") == []
    assert (await get(limit=1_001))["code"] == -1130


async def test_open_interest_history_is_served_for_five_minutes_and_thirty_days(client: httpx.AsyncClient) -> None:
    async def get(**params: Any) -> Any:
        query = {"symbol": "BTCUSDT", "period": "5m", **params}
        response = await client.get("/futures/data/openInterestHist", params=query)
        return response.json()

    assert await get() == [statistic(-2), statistic(-1), statistic(0)]
    assert await get(startTime=NOON_MS, endTime=NOON_MS + STEP_MS) == [statistic(0)]
    assert await get(period="1h") == []
    assert (await get(startTime=NOON_MS - 31 * 86_400_000))["code"] == -1130
    assert (await get(symbol=""))["code"] == -1102


async def test_present_open_interest_is_the_last_recorded_value(directory: Path, client: httpx.AsyncClient) -> None:
    async def get(client: httpx.AsyncClient, symbol: str) -> Any:
        return (await client.get("/fapi/v1/openInterest", params={"symbol": symbol})).json()

    assert await get(client, "BTCUSDT") == {"openInterest": "0", "symbol": "BTCUSDT", "time": NOON_MS}
    assert (await get(client, "ETHUSDT"))["code"] == -1121
    (directory / "open_interest_history.json").unlink()
    shutil.copy(RECORDED / "open_interest_present.json", directory)
    exchange = ReplayExchange(directory, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as other:
        found = await get(other, "btcusdt")
        assert found == json.loads((RECORDED / "open_interest_present.json").read_text())


@pytest.mark.parametrize("content", ["[1]", "{", '[{"symbol": "BTCUSDT"}]', '[{"symbol": "A", "fundingTime": "x"}]'])
async def test_invalid_recording_raises_an_error(directory: Path, content: str) -> None:
    (directory / "funding_rate.json").write_text(content)
    with pytest.raises(CaptureError, match=r"funding_rate\.json is not a recorded response"):
        await ReplayExchange(directory, 0).start()


async def test_invalid_rows_are_served_as_recorded(directory: Path) -> None:
    invalid = [{"symbol": "BTCUSDT", "fundingRate": "0.1"}, None, {**rate(-1), "fundingRate": "x"}]
    (directory / "funding_rate.json").write_text(json.dumps([rate(-2), *invalid, rate(0)]))
    (directory / "open_interest_history.json").write_text(json.dumps([statistic(-1), {"timestamp": NOON_MS}, None]))
    exchange = ReplayExchange(directory, 0)
    async with exchange.running(), httpx.AsyncClient(base_url=exchange.url) as http:
        served = (await http.get("/fapi/v1/fundingRate", params={"symbol": "BTCUSDT"})).json()
        assert all(row in served for row in [rate(-2), *invalid, rate(0)])
        assert len(served) == 5
        present = (await http.get("/fapi/v1/openInterest", params={"symbol": "BTCUSDT"})).json()
        assert present["openInterest"] == "-1"
