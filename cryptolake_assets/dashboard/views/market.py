"""Market: candles, volume and VWAP of a symbol, live; the same bars as an exact table and as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from cryptolake_assets.dashboard import chart
from cryptolake_assets.dashboard.lake import MOST_ROWS, moment
from cryptolake_assets.dashboard.series import Feed, plain, price_places, rows
from cryptolake_assets.dashboard.shared import (
    NO_BARS,
    choose_symbol,
    exact_table,
    lake,
    no_mart_yet,
    patiently,
    refresh_s,
    when,
)

TIMEFRAMES = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "4h": timedelta(hours=4),
    "1d": timedelta(days=1),
}
RANGES: dict[str, timedelta | None] = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "1y": timedelta(days=365),
    "all": None,
}
CUSTOM = "custom"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TABLE_ROWS = 1_000
TABLE = {
    "window_start": "open time (UTC)",
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "volume": "volume",
    "quote_volume": "quote volume",
    "vwap": "VWAP",
    "trades": "trades",
    "taker_buy_volume": "taker buy volume",
    "is_complete": "complete",
}


@dataclass(frozen=True)
class View:
    """What is looked at: bars whose open time is in [start, end]; without an end it goes on with the market."""

    symbol: str
    timeframe: str
    range: str
    start: datetime | None
    end: datetime | None

    @property
    def about(self) -> tuple[Any, ...]:
        """What the chart shows: a range that goes on with the market stays the same one while its start moves."""
        ends = () if self.end is None and self.range != CUSTOM else (self.start, self.end)
        return (self.symbol, self.timeframe, self.range, *ends)

    @property
    def path(self) -> str:
        return f"/ohlcv/{self.timeframe}"

    @property
    def query(self) -> dict[str, Any]:
        return {"symbol": self.symbol, "start": self.start, "end": self.end}


def render() -> None:
    symbols = lake().symbols()
    if not symbols:
        st.info(NO_BARS, icon=":material/hourglass_empty:")
        return
    view, live = _choose(symbols)
    feed: Feed = st.session_state.setdefault("feed", Feed())
    feed.rewind()
    st.fragment(_bars, run_every=refresh_s() if live and view.end is None else None)(view, feed)
    _downloads(view)
    st.caption(chart.ATTRIBUTION)


def _choose(symbols: list[dict[str, Any]]) -> tuple[View, bool]:
    with st.container(horizontal=True, vertical_alignment="bottom", key="choice"):
        with st.container(width=180):
            symbol = choose_symbol(symbols)
        timeframe = st.segmented_control(
            "Timeframe", tuple(TIMEFRAMES), default="1m", key="timeframe", required=True, bind="query-params"
        )
        chosen = st.segmented_control(
            "Range", (*RANGES, CUSTOM), default="1d", key="range", required=True, bind="query-params"
        )
        live = st.toggle("Live", value=True, key="live", help="Look for new and changed bars every few seconds.")
    first, last = moment(symbol["first_minute"]), moment(symbol["last_minute"])
    if chosen == CUSTOM:
        start, end = _custom(first, last)
    else:
        start, end = first_open_time(last, RANGES[chosen or "1d"], TIMEFRAMES[timeframe or "1m"]), None
    return View(symbol["symbol"], timeframe or "1m", chosen or "1d", start, end), live


def first_open_time(last: datetime, length: timedelta | None, timeframe: timedelta) -> datetime | None:
    """Open time of the bar in which a range of that length begins, `last` being the newest minute; None for all."""
    if length is None:
        return None
    start = last - length
    return start - (start - EPOCH) % timeframe


def _custom(first: datetime, last: datetime) -> tuple[datetime | None, datetime | None]:
    """Both ends by hand, in UTC; they stand in the URL as the rest does."""
    with st.container(horizontal=True, key="custom"):
        start = st.datetime_input(
            "From (UTC)", first.replace(tzinfo=None), key="from", step=60, bind="query-params", width=240
        )
        end = st.datetime_input(
            "To (UTC)", last.replace(tzinfo=None), key="to", step=60, bind="query-params", width=240
        )
    return tuple(None if moment is None else moment.replace(tzinfo=UTC) for moment in (start, end))  # type: ignore[return-value]


def _bars(view: View, feed: Feed) -> None:
    """The live part: what is new is drawn without a reload of the page. Streamlit runs it every few seconds."""
    patiently(lambda: _draw(view, feed))


def _draw(view: View, feed: Feed) -> None:
    page = lake().page(view.path, **view.query, order="desc", limit=MOST_ROWS)
    if page is None:
        no_mart_yet(f"{view.timeframe} bars")
        return
    bars = page["bars"][::-1]
    if not bars:
        st.info(f"**No bars of {view.symbol} in this range.** Choose a longer one.", icon=":material/search_off:")
        return
    _headline(bars)
    chart.candles(feed, view.about, f"{view.symbol} · {view.timeframe}", rows(bars), price_places(bars))
    said = f"{len(bars):,} bars, {when(bars[0]['window_start'])} to {when(bars[-1]['window_start'])} UTC"
    if page["next_cursor"]:
        said = f"The newest {said}; the range holds more: choose a longer timeframe, or download it."
    st.caption(f"{said} · snapshot {page['snapshot_id']}")
    exact_table(bars[: -TABLE_ROWS - 1 : -1], TABLE, key="bars", most_rows=10)


def _headline(bars: list[dict[str, Any]]) -> None:
    """The newest bar, and what the range adds up to."""
    newest = bars[-1]
    rise = float(newest["close"]) / float(bars[0]["open"]) - 1
    highest = max(bars, key=lambda bar: float(bar["high"]))["high"]
    lowest = min(bars, key=lambda bar: float(bar["low"]))["low"]
    with st.container(horizontal=True, key="headline"):
        st.metric("Close", plain(newest["close"]), f"{rise:+.2%} in the range", delta_color="off", width="content")
        st.metric("High", plain(highest), width="content")
        st.metric("Low", plain(lowest), width="content")
        st.metric("Trades", f"{sum(bar['trades'] for bar in bars):,}", width="content")
        st.metric("Newest bar", when(newest["window_start"])[:16], width="content", help="Open time, UTC")


def _downloads(view: View) -> None:
    with st.container(horizontal=True, key="downloads"):
        for fmt, mime in (("csv", "text/csv"), ("parquet", "application/vnd.apache.parquet")):
            st.download_button(
                fmt.upper() if fmt == "csv" else "Parquet",
                _file(view, fmt),
                file_name=f"{view.symbol}-{view.timeframe}.{fmt}",
                mime=mime,
                icon=":material/download:",
                on_click="ignore",
                key=f"download-{fmt}",
                help="Every bar of the range, with every digit.",
            )


def _file(view: View, fmt: str) -> Callable[[], bytes]:
    """Fetched when it is asked for."""
    at, query = lake(), dict(view.query)

    def fetch() -> bytes:
        return at.file(view.path, fmt, **query)

    return fetch
