"""The candlestick chart: a Streamlit component with its JavaScript in `chart/`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2.get_bidi_component_manager import get_bidi_component_manager
from streamlit.components.v2.manifest_scanner import ComponentConfig, ComponentManifest

from cryptolake_assets.dashboard import palette
from cryptolake_assets.dashboard.series import Feed, Row

PACKAGE, NAME, ASSETS = "cryptolake", "chart", "chart"
ATTRIBUTION = (
    "Charts: [TradingView Lightweight Charts™](https://www.tradingview.com/), Copyright (c) 2026 TradingView, Inc."
)

_HTML = '<div class="frame"><div class="legend"></div><div class="chart" role="img" tabindex="0"></div></div>'


def candles(feed: Feed, about: tuple[Any, ...], title: str, bars: list[Row], decimals: int) -> None:
    """Draw bars, oldest first; send only the changes of a series that the browser already has."""

    def resync() -> None:
        feed.rewind()

    _component()(
        key="candles",
        data={
            **feed.message(about, bars),
            "title": title,
            "places": decimals,
            "palette": palette.both(),
        },
        on_resync_change=resync,
    )


@cache
def _component() -> Any:
    """Return the component.

    Register its files here: Streamlit finds declarations only in packages named like their distribution.
    """
    manager = get_bidi_component_manager()
    name = f"{PACKAGE}.{NAME}"
    if manager.get_component_asset_root(name) is None:
        config = ComponentConfig(NAME, asset_dir=ASSETS)
        manager.register_from_manifest(ComponentManifest(PACKAGE, "1", [config]), Path(__file__).parent)
    return st.components.v2.component(name, html=_HTML, css="chart.css", js="chart.js")
