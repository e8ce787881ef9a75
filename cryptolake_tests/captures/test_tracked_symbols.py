"""Symbols, stream and first day, resolved from the settings and the source."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.binance.rest_responses import SymbolInfo
from cryptolake_assets.captures.reader import CaptureSummary
from cryptolake_assets.captures.tracked_symbols import (
    Listing,
    Subscriptions,
    default_start_date,
    resolve_subscriptions,
)
from cryptolake_assets.errors import CaptureError, SettingsError, StreamUnavailableError, UnknownSymbolError
from cryptolake_assets.model.exchange_records import TradeStreamName
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, load_settings


def _settings(**overrides: Any) -> Settings:
    defaults = {"source": "replay", "symbols": (), "trade_stream": "auto", "start_date": None}
    return load_settings(**defaults | {"replay_dir": DEMO_CAPTURE_DIR} | overrides)


def _summary(**trade_streams: tuple[TradeStreamName, ...]) -> CaptureSummary:
    return CaptureSummary(
        directory=Path("captures"),
        symbols=tuple(trade_streams),
        trade_streams=trade_streams,
        stream_names=(),
        frame_count=1,
        first_event_time_ms=0,
        last_event_time_ms=0,
        first_receive_time_ns=0,
        last_receive_time_ns=0,
        clock_offset_ns=0,
    )


def test_subscriptions_of_the_shipped_capture() -> None:
    found = resolve_subscriptions(_settings())
    assert found == Subscriptions(("ETHUSDT", "BTCUSDT"), "trade")
    assert found.stream_names == ("ethusdt@trade", "btcusdt@trade")


@pytest.mark.parametrize(
    ("recorded", "symbols", "stream", "expected"),
    [
        ({"A": ("trade", "aggTrade")}, "", "auto", Subscriptions(("A",), "trade")),
        ({"A": ("trade", "aggTrade")}, "", "aggTrade", Subscriptions(("A",), "aggTrade")),
        ({"A": ("aggTrade",), "B": ("aggTrade",)}, "b", "auto", Subscriptions(("B",), "aggTrade")),
        ({"A": ("trade",), "B": ("aggTrade",)}, "B", "auto", Subscriptions(("B",), "aggTrade")),
        ({"A": ("trade", "aggTrade"), "B": ("aggTrade",)}, "", "auto", Subscriptions(("A", "B"), "aggTrade")),
        ({"A": ("trade",), "B": ()}, "", "auto", Subscriptions(("A",), "trade")),
        ({"A": ("trade",), "B": ("aggTrade",)}, "", "auto", Subscriptions(("A",), "trade")),
        ({"A": ("trade",), "B": ("aggTrade",), "C": ("aggTrade",)}, "", "auto", Subscriptions(("B", "C"), "aggTrade")),
        ({"A": (), "B": ()}, "", "auto", Subscriptions(("A", "B"), "trade")),
    ],
)
def test_subscriptions_follow_the_recorded_streams(
    recorded: dict[str, tuple[TradeStreamName, ...]], symbols: str, stream: str, expected: Subscriptions
) -> None:
    settings = _settings(symbols=symbols, trade_stream=stream)
    assert resolve_subscriptions(settings, summary=_summary(**recorded)) == expected


@pytest.mark.parametrize(
    ("recorded", "symbols", "stream"),
    [
        ({"A": ("trade",)}, "", "aggTrade"),
        ({"A": ("trade",), "B": ("aggTrade",)}, "A,B", "auto"),
        ({"A": ("trade",), "B": ()}, "A,B", "auto"),
        ({"A": ()}, "A", "auto"),
    ],
)
def test_stream_missing_in_the_capture_raises_an_error(
    recorded: dict[str, tuple[TradeStreamName, ...]], symbols: str, stream: str
) -> None:
    with pytest.raises(StreamUnavailableError, match=r"It contains A: .*CRYPTOLAKE_TRADE_STREAM"):
        resolve_subscriptions(_settings(symbols=symbols, trade_stream=stream), summary=_summary(**recorded))


def test_error_of_unknown_symbols_lists_at_most_20_known_ones() -> None:
    recorded: dict[str, tuple[TradeStreamName, ...]] = {f"S{i}": ("trade",) for i in range(500)}
    with pytest.raises(UnknownSymbolError, match=r"unknown symbol NOPE; .* S0, .* S19 and 480 more\. Correct"):
        resolve_subscriptions(_settings(symbols="S1,NOPE"), summary=_summary(**recorded))


def _listing(*symbols: str, volumes: dict[str, Decimal] | None = None) -> Listing:
    return Listing([SymbolInfo(symbol, "TRADING", quote_asset="USDT") for symbol in symbols], volumes or {})


def test_live_symbols_follow_settings_and_listing() -> None:
    live = {"source": "binance"}
    assert resolve_subscriptions(_settings(**live)) == Subscriptions(("BTCUSDT", "ETHUSDT"), "aggTrade")
    explicit = _settings(**live, symbols="ADAUSDT", trade_stream="trade")
    assert resolve_subscriptions(explicit, listing=_listing("ADAUSDT")) == Subscriptions(("ADAUSDT",), "trade")
    with pytest.raises(UnknownSymbolError, match="unknown symbol ADAUSDT; the exchange lists BTCUSDT"):
        resolve_subscriptions(explicit, listing=_listing("BTCUSDT"))
    selected = _settings(**live, symbols="SOLUSDT,B*,top:1")
    assert resolve_subscriptions(selected).symbols == ("SOLUSDT",)  # patterns and TOP need a listing
    listing = _listing("BTCUSDT", "BNBUSDT", "ETHUSDT", "SOLUSDT", volumes={"ETHUSDT": Decimal(1)})
    assert resolve_subscriptions(selected, listing=listing).symbols == ("SOLUSDT", "BNBUSDT", "BTCUSDT", "ETHUSDT")
    with pytest.raises(UnknownSymbolError, match=r"\*USDC matches no symbol listed by the exchange"):
        resolve_subscriptions(_settings(**live, symbols="*usdc"), listing=listing)


def test_patterns_select_recorded_symbols() -> None:
    summary = _summary(BTCUSDT=("trade",), BTCUSDC=("trade",), ETHUSDT=("trade",))
    assert resolve_subscriptions(_settings(symbols="BTC*"), summary=summary).symbols == ("BTCUSDC", "BTCUSDT")
    with pytest.raises(UnknownSymbolError, match=r"X\* matches no symbol in the capture"):
        resolve_subscriptions(_settings(symbols="X*"), summary=summary)


def test_symbols_file_replaces_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "symbols.txt"
    path.write_text("ethusdt,\n  btcusdt\n")
    settings = _settings(symbols="ADAUSDT", symbols_file=path)
    assert settings.symbol_items == ("ETHUSDT", "BTCUSDT")
    path.write_text("no/symbol")
    with pytest.raises(SettingsError, match=r"symbols\.txt cannot be read .*NO/SYMBOL.*CRYPTOLAKE_SYMBOLS_FILE"):
        _ = settings.symbol_items
    path.unlink()
    with pytest.raises(SettingsError, match="No such file"):
        _ = settings.symbol_items


def test_default_start_date(tmp_path: Path) -> None:
    assert default_start_date(_settings()) == date(2024, 7, 18)
    assert default_start_date(_settings(start_date="2024-07-01")) == date(2024, 7, 1)
    assert default_start_date(_settings(source="binance", replay_dir=tmp_path)) == date(2026, 1, 1)
    with pytest.raises(CaptureError, match="CRYPTOLAKE_REPLAY_DIR"):
        default_start_date(_settings(replay_dir=tmp_path))
