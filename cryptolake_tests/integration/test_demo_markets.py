"""The demo over a recorded capture of three markets, on one platform: exact bars, complete minutes, each trade once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.markets import VENUES, Market
from cryptolake_assets.replay.emitted_ledger import emitted_trades
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import bars
from cryptolake_tests.support.commands import cryptolake
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.reference import Trade, reference_bars
from cryptolake_tests.support.three_markets import SYMBOLS, THREE_MARKETS, TRADES, recorded_trades, trade_data

COMMAND_TIMEOUT_S = 420
HOUR = datetime(2024, 8, 8, 23, tzinfo=UTC)
INNER_MINUTES = (55, 56, 57)
"""The minutes of which the capture has the trade before the first one and the trade after the last one."""


@pytest.fixture(scope="module")
def demo(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    """The platform after the demo, and what the demo printed."""
    settings = settings_for(tmp_path_factory.mktemp("demo"), replay_dir=THREE_MARKETS)
    with start_platform(settings):
        yield settings, cryptolake(settings, "demo", timeout_s=COMMAND_TIMEOUT_S)


def _trade(market: Market, event: dict[str, Any]) -> Trade:
    """Read a recorded trade without the product's parser."""
    return {
        "exchange": VENUES[market].exchange,
        "symbol": event["s"],
        "stream": "trade",
        "trade_id": event["t"],
        **dict.fromkeys(("first_trade_id", "last_trade_id"), event["t"]),
        "event_time": datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=event["T"]),
        "price": Decimal(event["p"]),
        "qty": Decimal(event["q"]),
        "side": "sell" if event["m"] else "buy",
        "trade_type": event.get("X", "MARKET"),
    }


def test_bars_of_each_market_are_exact_and_inner_minutes_complete(demo: tuple[Settings, str]) -> None:
    settings, _ = demo
    recorded = [_trade(market, trade_data(raw)) for market in Market for raw in recorded_trades(market)]
    expected = reference_bars(recorded)
    found = {key: bar for family in settings.each_family for key, bar in bars(family, HOUR).items()}
    assert {key: {name: bar[name] for name in expected[key]} for key, bar in found.items()} == expected
    inner = {
        (VENUES[market].exchange, symbol, HOUR.replace(minute=minute))
        for market, symbol in SYMBOLS.items()
        for minute in INNER_MINUTES
    }
    assert {key for key in inner if found[key]["is_complete"]} == inner
    first = [bar["is_complete"] for (_, _, start), bar in found.items() if start.minute == min(INNER_MINUTES) - 1]
    assert first == [False] * 3, "trades before the capture are missing"


def test_bronze_has_each_emitted_trade_once(demo: tuple[Settings, str]) -> None:
    settings, _ = demo
    fields = ("exchange", "symbol", "stream", "trade_id")
    stored = [
        tuple(row[name] for name in fields)
        for family in settings.each_family
        for row in load_table(family, family.tables.trades).scan(selected_fields=fields).to_arrow().to_pylist()
    ]
    emitted = {(one.exchange, one.symbol, one.stream, one.trade_id) for one in emitted_trades(THREE_MARKETS)}
    assert set(stored) == emitted
    assert len(stored) == len(emitted) == sum(TRADES.values())


def test_demo_shows_every_market(demo: tuple[Settings, str]) -> None:
    _, shown = demo
    rows = [line.split()[:3] for line in shown.splitlines() if " 08-08 23:5" in line]
    # The capture begins and ends within a minute.
    assert Counter((market, symbol) for market, symbol, _ in rows) == dict.fromkeys(SYMBOLS.items(), 5)
    assert "9 of 15 bars are complete" in shown
    assert "The capture has no official klines" in shown
    assert "futures_trades: 12,502 rows, 12,502 distinct trades, 0 duplicates, 0 rejected frames" in shown
    assert "spot_trades: 5,586 rows, 5,586 distinct trades, 0 duplicates, 0 rejected frames" in shown
