"""The selectors of market and symbol, without a browser: URL, widgets, and symbols that a market lacks."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

FUTURES, SPOT = "binance_futures", "binance_spot"


def page() -> None:
    """A page with the selectors only; its rows are those of `/symbols`. Runs as a script: it imports all it needs."""
    import streamlit as st

    from cryptolake_assets.dashboard import address
    from cryptolake_assets.dashboard.shared import choose_symbol, chosen_address

    st.session_state["linked"] = chosen_address()  # the links to other pages are drawn first
    topics = [
        ("binance_futures", "BTCUSDT"),
        ("binance_futures", "ETHUSDT"),
        ("binance_spot", "BTCUSDT"),
        ("binance_spot", "SOLUSDT"),
    ]
    chosen = choose_symbol([{"exchange": exchange, "symbol": symbol} for exchange, symbol in topics])
    address.write(exchange=chosen["exchange"], symbol=chosen["symbol"])
    st.session_state["shown"] = chosen["exchange"], chosen["symbol"]


def opened(**query: str) -> AppTest:
    app = AppTest.from_function(page, default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def shown(app: AppTest) -> tuple[str, str]:
    """Return the chosen exchange and symbol; the URL names them too."""
    assert not app.exception
    found: tuple[str, str] = app.session_state["shown"]
    assert (app.query_params["exchange"], app.query_params["symbol"]) == found
    return found


@pytest.mark.parametrize(
    ("query", "expected", "unknown"),
    [
        ({}, (FUTURES, "BTCUSDT"), None),
        ({"symbol": "BTCUSDT"}, (FUTURES, "BTCUSDT"), None),
        ({"symbol": "ethusdt"}, (FUTURES, "ETHUSDT"), None),
        ({"symbol": "SOLUSDT"}, (SPOT, "SOLUSDT"), None),
        ({"exchange": SPOT}, (SPOT, "BTCUSDT"), None),
        ({"exchange": SPOT, "symbol": "BTCUSDT"}, (SPOT, "BTCUSDT"), None),
        ({"exchange": SPOT, "symbol": "ETHUSDT"}, (SPOT, "BTCUSDT"), "Unknown symbol 'ETHUSDT'"),
        ({"exchange": "other", "symbol": "SOLUSDT"}, (SPOT, "SOLUSDT"), "Unknown market 'other'"),
        ({"symbol": "NOPE"}, (FUTURES, "BTCUSDT"), "Unknown symbol 'NOPE'"),
    ],
)
def test_link_selects_market_and_symbol(query: dict[str, str], expected: tuple[str, str], unknown: str | None) -> None:
    app = opened(**query)
    assert shown(app) == expected
    assert [toast.value.partition(":")[0] for toast in app.toast] == ([unknown] if unknown else [])


def test_market_is_named_by_its_title_and_keeps_the_symbol_if_it_has_it() -> None:
    app = opened(symbol="BTCUSDT")
    market, symbol = app.selectbox(key="exchange"), app.selectbox(key="symbol")
    assert (market.options, symbol.options) == (["Binance USD-M futures", "Binance Spot"], ["BTCUSDT", "ETHUSDT"])
    for key, value, expected in (
        ("exchange", SPOT, (SPOT, "BTCUSDT")),
        ("symbol", "SOLUSDT", (SPOT, "SOLUSDT")),
        ("exchange", FUTURES, (FUTURES, "BTCUSDT")),
        ("symbol", "ETHUSDT", (FUTURES, "ETHUSDT")),
    ):
        assert shown(app.selectbox(key=key).select(value).run()) == expected
        assert tuple(app.session_state["linked"].values()) == expected
