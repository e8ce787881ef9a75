"""The recorded capture of one symbol on USD-M, Spot and COIN-M: its trades, and copies in other layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.model.markets import Market

THREE_MARKETS = Path(__file__).parents[1] / "data" / "markets"
SYMBOLS = {Market.USD_M: "BTCUSDT", Market.SPOT: "BTCUSDT", Market.COIN_M: "BTCUSD_PERP"}
TRADES = {Market.USD_M: 11_408, Market.SPOT: 5_586, Market.COIN_M: 1_094}
FRAMES = {Market.USD_M: 11_426, Market.SPOT: 5_597, Market.COIN_M: 1_108}


def recorded_trades(market: Market, directory: Path = THREE_MARKETS) -> list[str]:
    """Return the market's trade frames as recorded."""
    return [frame.raw for frame in read_frames(directory / market) if '@trade"' in frame.raw]


def trade_data(raw: str) -> dict[str, Any]:
    """Return the event of a trade frame."""
    event: dict[str, Any] = json.loads(raw)["data"]
    return event


def copied(directory: Path, *markets: Market) -> Path:
    """Copy the captures of some markets; return the directory."""
    for market in markets:
        shutil.copytree(THREE_MARKETS / market, directory / market)
    return directory
