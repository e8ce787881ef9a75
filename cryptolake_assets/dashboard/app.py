"""The Streamlit script: navigation around the pages. Streamlit runs it for every view of a page."""

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
# Streamlit leaves an empty space of two headings above a page, its metrics fill a phone's screen, and wide button
# groups need scrolling.
_STYLE = """<style>
.stMainBlockContainer { padding-top: 1.5rem }
.stMetric { padding-right: 1rem }
[data-testid="stMetricValue"] { font-size: 1.6rem }
.stButtonGroup [role="radiogroup"] { flex-wrap: wrap; row-gap: 0.25rem }
@media (max-width: 640px) { [data-testid="stMetricValue"] { font-size: 1.25rem } }
</style>"""
# Mark the link of the current page for screen readers (`aria-current`): Streamlit only sets it in bold. The observer
# covers links that are rendered later.
_CURRENT = """<script>
window.cryptolakeLinks?.disconnect()
{
  const navigation = document.querySelector(".st-key-navigation")
  const mark = () => navigation.querySelectorAll("a").forEach((link, number) => {
    if (number === PLACE) link.setAttribute("aria-current", "page")
    else link.removeAttribute("aria-current")
  })
  window.cryptolakeLinks = new MutationObserver(mark)
  window.cryptolakeLinks.observe(navigation, { childList: true, subtree: true })
  mark()
}
</script>"""
ADDRESSES = "addresses"  # session key: the URL parameters of each page when the user left it


def main() -> None:
    # Before `st.navigation`: it would set the page's icon, which Streamlit loads from the internet.
    st.set_page_config(page_icon=Path(__file__).with_name("icon.svg"), layout="wide")
    page = st.navigation(PAGES, position="hidden")
    st.set_page_config(page_title=f"{page.title} · CryptoLake")
    with st.container(horizontal=True, vertical_alignment="center", key="navigation"):
        st.markdown("**CryptoLake**", width="content")
        for item in PAGES:
            st.page_link(item, query_params=_address(item.title))
        place = [item.title for item in PAGES].index(page.title)
        st.html(_CURRENT.replace("PLACE", str(place)), width="content", unsafe_allow_javascript=True)
    st.html(_STYLE)
    page.run()
    st.session_state.setdefault(ADDRESSES, {})[page.title] = st.query_params.to_dict()


def _address(title: str) -> dict[str, str]:
    """Return the URL parameters of the link to a page: those saved when the user left it, and the current symbol."""
    saved: dict[str, str] = st.session_state.get(ADDRESSES, {}).get(title, {})
    return {**saved, **shared.chosen_address()}


main()
