"""Symbols, stream and first day, from settings held against the source."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.errors import CaptureError, StreamUnavailableError, UnknownSymbolError
from cryptolake_assets.exchange.capture import CaptureSummary
from cryptolake_assets.exchange.records import TradeStreamName
from cryptolake_assets.exchange.universe import Subscriptions, default_start_date, resolve_subscriptions
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


def test_the_shipped_capture() -> None:
    found = resolve_subscriptions(_settings())
    assert found == Subscriptions(("ETHUSDT", "BTCUSDT"), "trade")
    assert found.stream_names == ("ethusdt@trade", "btcusdt@trade")


@pytest.mark.parametrize(
    ("held", "symbols", "stream", "expected"),
    [
        ({"A": ("trade", "aggTrade")}, "", "auto", Subscriptions(("A",), "trade")),
        ({"A": ("trade", "aggTrade")}, "", "aggTrade", Subscriptions(("A",), "aggTrade")),
        ({"A": ("aggTrade",), "B": ("aggTrade",)}, "b", "auto", Subscriptions(("B",), "aggTrade")),
        ({"A": ("trade",), "B": ("aggTrade",)}, "B", "auto", Subscriptions(("B",), "aggTrade")),
        ({"A": ("trade", "aggTrade"), "B": ("aggTrade",)}, "", "auto", Subscriptions(("A", "B"), "aggTrade")),
        ({"A": ("trade",), "B": ()}, "", "auto", Subscriptions(("A",), "trade")),
    ],
)
def test_what_the_capture_holds(
    held: dict[str, tuple[TradeStreamName, ...]], symbols: str, stream: str, expected: Subscriptions
) -> None:
    settings = _settings(symbols=symbols, trade_stream=stream)
    assert resolve_subscriptions(settings, summary=_summary(**held)) == expected


@pytest.mark.parametrize(
    ("held", "symbols", "stream"),
    [
        ({"A": ("trade",)}, "", "aggTrade"),
        ({"A": ("trade",), "B": ("aggTrade",)}, "", "auto"),
        ({"A": ("trade",), "B": ()}, "A,B", "auto"),
        ({"A": ()}, "", "auto"),
    ],
)
def test_a_stream_that_the_capture_lacks(
    held: dict[str, tuple[TradeStreamName, ...]], symbols: str, stream: str
) -> None:
    with pytest.raises(StreamUnavailableError, match=r"It holds A: .*CRYPTOLAKE_TRADE_STREAM"):
        resolve_subscriptions(_settings(symbols=symbols, trade_stream=stream), summary=_summary(**held))


def test_unknown_symbols_are_named_with_a_bounded_list_of_known_ones() -> None:
    held: dict[str, tuple[TradeStreamName, ...]] = {f"S{i}": ("trade",) for i in range(500)}
    with pytest.raises(UnknownSymbolError, match=r"NOPE unknown; .* S0, .* S19 and 480 more\. Correct"):
        resolve_subscriptions(_settings(symbols="S1,NOPE"), summary=_summary(**held))


def test_live() -> None:
    live = {"source": "binance"}
    assert resolve_subscriptions(_settings(**live)) == Subscriptions(("BTCUSDT", "ETHUSDT"), "aggTrade")
    explicit = _settings(**live, symbols="ADAUSDT", trade_stream="trade")
    assert resolve_subscriptions(explicit, listed_symbols=["ADAUSDT"]) == Subscriptions(("ADAUSDT",), "trade")
    with pytest.raises(UnknownSymbolError, match="ADAUSDT unknown; the exchange lists BTCUSDT"):
        resolve_subscriptions(explicit, listed_symbols=["BTCUSDT"])


def test_default_start_date(tmp_path: Path) -> None:
    assert default_start_date(_settings()) == date(2024, 7, 18)
    assert default_start_date(_settings(start_date="2024-07-01")) == date(2024, 7, 1)
    assert default_start_date(_settings(source="binance", replay_dir=tmp_path)) == date(2026, 1, 1)
    with pytest.raises(CaptureError):
        default_start_date(_settings(replay_dir=tmp_path))
