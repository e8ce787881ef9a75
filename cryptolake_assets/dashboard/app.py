"""The Streamlit script: the frame around the pages. Streamlit runs it anew for every look at a page."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from cryptolake_assets.dashboard import shared
from cryptolake_assets.dashboard.views import daily, market, operations, quality

PAGES = (
    st.Page(shared.guarded(market.render), title="Market", icon=":material/candlestick_chart:", default=True),
    st.Page(shared.guarded(daily.render), title="Daily", icon=":material/calendar_month:", url_path="daily"),
    st.Page(shared.guarded(quality.render), title="Quality", icon=":material/verified:", url_path="quality"),
    st.Page(
        shared.guarded(operations.render), title="Operations", icon=":material/monitor_heart:", url_path="operations"
    ),
)
_STYLE = """<style>
.stMainBlockContainer { padding-top: 1.5rem }
.stMetric { padding-right: 1rem }
[data-testid="stMetricValue"] { font-size: 1.6rem }
@media (max-width: 640px) { [data-testid="stMetricValue"] { font-size: 1.25rem } }
</style>"""
"""Streamlit leaves the height of two headings empty above a page, and its figures fill a phone."""
CARRIED = ("symbol",)
"""What of the URL goes along to another page."""


def main() -> None:
    st.set_page_config("CryptoLake", Path(__file__).with_name("icon.svg"), layout="wide")
    page = st.navigation(PAGES, position="hidden")
    carried = {name: st.query_params[name] for name in CARRIED if name in st.query_params}
    with st.container(horizontal=True, vertical_alignment="center", key="navigation"):
        st.markdown("**CryptoLake**", width="content")
        for item in PAGES:
            st.page_link(item, query_params=carried)
    st.html(_STYLE)
    page.run()


main()
