"""Symbol selection against the replay exchange: by name, by pattern, by recorded volume."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from cryptolake_assets.binance.rest import AsyncExchangeRest
from cryptolake_assets.errors import CaptureError, UnknownSymbolError
from cryptolake_assets.producer.subscriptions import find_subscriptions
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.captures import trade_frame, write_capture
from cryptolake_tests.support.sockets import NOON_MS

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDC")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A capture with trades of three symbols, and tickers of two of them and of one that was not recorded."""
    frames = [(NOON_MS * 10**6 + number, trade_frame(symbol, number, NOON_MS)) for number, symbol in enumerate(SYMBOLS)]
    directory = write_capture(tmp_path / "capture" / "three.ndjson.gz", frames)
    tickers = [("BTCUSDT", "10.5"), ("ETHUSDT", "1000"), ("ADAUSDT", "99999")]
    (directory / "ticker-24hr.json").write_text(
        json.dumps([{"symbol": symbol, "quoteVolume": volume} for symbol, volume in tickers])
    )
    return directory


def _settings(capture: Path, symbols: str) -> Settings:
    return load_settings(replay_dir=capture, symbols=symbols)


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ("", SYMBOLS),
        ("ETHUSDT", ("ETHUSDT",)),
        ("*USDT", ("BTCUSDT", "ETHUSDT")),
        ("top:1", ("ETHUSDT",)),
        ("top:5,*USDC", ("SOLUSDC", "ETHUSDT", "BTCUSDT")),
    ],
)
async def test_selection_resolves_to_symbols(capture: Path, symbols: str, expected: tuple[str, ...]) -> None:
    async with ReplayExchange(capture, 0).running() as exchange, AsyncExchangeRest(exchange.url) as rest:
        found = await find_subscriptions(_settings(capture, symbols), rest)
    assert set(found.symbols) == set(expected)
    assert symbols == "" or found.symbols == expected


async def test_selection_that_matches_nothing_is_rejected(capture: Path) -> None:
    async with ReplayExchange(capture, 0).running() as exchange, AsyncExchangeRest(exchange.url) as rest:
        with pytest.raises(UnknownSymbolError, match="TOP:3:USDC matches no symbol"):
            await find_subscriptions(_settings(capture, "top:3:usdc"), rest)


async def test_replay_serves_recorded_tickers_of_captured_symbols_only(capture: Path) -> None:
    async with ReplayExchange(capture, 0).running() as exchange, httpx.AsyncClient(base_url=exchange.url) as client:
        everything = (await client.get("/fapi/v1/ticker/24hr")).json()
        assert [ticker["symbol"] for ticker in everything] == ["BTCUSDT", "ETHUSDT"]
        one = (await client.get("/fapi/v1/ticker/24hr", params={"symbol": "BTCUSDT"})).json()
        assert one == {"symbol": "BTCUSDT", "quoteVolume": "10.5"}
    (capture / "ticker-24hr.json").write_text('{"code": -1}')
    with pytest.raises(CaptureError, match=r"ticker-24hr\.json is not a list of tickers"):
        await ReplayExchange(capture, 0).start()
