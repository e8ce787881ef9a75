"""Market page: live candles, volume and VWAP of a symbol; the same bars as an exact table and as downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from cryptolake_assets.dashboard import address, chart
from cryptolake_assets.dashboard.lake import MAX_ROWS, moment
from cryptolake_assets.dashboard.series import Feed, fixed, grouped, plain, price_places, rows
from cryptolake_assets.dashboard.shared import (
    choose_symbol,
    counted,
    exact_table,
    lake,
    market_title,
    minute,
    no_bars_yet,
    no_mart_yet,
    problem,
    refresh_s,
    with_error_box,
)
from cryptolake_assets.errors import ApiError
from cryptolake_assets.model.windows import EPOCH

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
TIMEFRAME, RANGE = "1m", "1d"  # defaults
FROM, TO = "from", "to"
# No supported exchange is older. Without a zone, because the widgets take naive times.
EARLIEST, LATEST = datetime(2017, 1, 1), datetime(2100, 1, 1)
TABLE_ROWS = 1_000
ERROR_POLL_S = 2.0  # polling interval for the errors of failed downloads
TABLE = {
    "window_start": "Open time (UTC)",
    "open": "Open",
    "high": "High",
    "low": "Low",
    "close": "Close",
    "volume": "Volume (base)",
    "quote_volume": "Quote volume",
    "vwap": "VWAP",
    "trades": "Trades",
    "taker_buy_volume": "Taker buy volume (base)",
    "state": "State",
    "evidence": "Evidence",
    "trades_dropped": "Trades dropped",
}


@dataclass(frozen=True)
class View:
    """The displayed range: bars whose open time is in [start, end]; without `end` it follows the market."""

    exchange: str
    symbol: str
    timeframe: str
    range: str
    start: datetime | None
    end: datetime | None
    others: tuple[str, ...] = ()  # the other exchanges with this symbol

    @property
    def about(self) -> tuple[Any, ...]:
        """Return the identity of the chart's series: that of a range that follows the market omits its moving start."""
        ends = () if self.end is None and self.range != CUSTOM else (self.start, self.end)
        return (self.exchange, self.symbol, self.timeframe, self.range, *ends)

    @property
    def path(self) -> str:
        return f"/ohlcv/{self.timeframe}"

    @property
    def query(self) -> dict[str, Any]:
        return {"exchange": self.exchange, "symbol": self.symbol, "start": self.start, "end": self.end}


def render() -> None:
    symbols = lake().symbols()
    if not symbols:
        no_bars_yet()
        return
    view, live = _choose(symbols)
    feed: Feed = st.session_state.setdefault("feed", Feed())
    feed.rewind()
    is_live = live and view.end is None
    st.fragment(_bars, run_every=refresh_s() if is_live else None)(view, feed, is_live=is_live)
    _downloads(view)
    st.caption(chart.ATTRIBUTION)


def _choose(symbols: list[dict[str, Any]]) -> tuple[View, bool]:
    with st.container(horizontal=True, vertical_alignment="bottom", key="choice"):
        symbol = choose_symbol(symbols)
        timeframe = st.segmented_control(
            "Timeframe", tuple(TIMEFRAMES), default=TIMEFRAME, key="timeframe", required=True, bind="query-params"
        )
        chosen = st.segmented_control(
            "Range", (*RANGES, CUSTOM), default=RANGE, key="range", required=True, bind="query-params"
        )
        live = st.toggle(
            "Live", value=True, key="live", bind="query-params", help="Poll for new and changed bars every few seconds."
        )
    first, last = moment(symbol["first_minute"]), moment(symbol["last_minute"])
    ends: dict[str, str | None] = {FROM: None, TO: None}
    start: datetime | None
    end: datetime | None
    if chosen == CUSTOM:
        start, end = _custom(first, last)
        ends = {FROM: _minute(start), TO: _minute(end)}
    else:
        start, end = first_open_time(last, RANGES[chosen or RANGE], TIMEFRAMES[timeframe or TIMEFRAME]), None
    exchange, name = symbol["exchange"], symbol["symbol"]
    address.write(exchange=exchange, symbol=name, **ends)
    others = tuple(item["exchange"] for item in symbols if item["symbol"] == name and item["exchange"] != exchange)
    return View(exchange, name, timeframe or TIMEFRAME, chosen or RANGE, start, end, others), live


def first_open_time(last: datetime, length: timedelta | None, timeframe: timedelta) -> datetime | None:
    """Return the open time of the bar `length` before the newest minute `last`; None if `length` is None (all)."""
    if length is None:
        return None
    start = last - length
    return start - (start - EPOCH) % timeframe


def _custom(first: datetime, last: datetime) -> tuple[datetime, datetime]:
    """Draw inputs for both ends of the range and return them, in UTC."""
    for name, default in ((FROM, first), (TO, last)):
        invalid = address.read(name, _time)
        st.session_state.setdefault(name, default.replace(tzinfo=None))
        if invalid is not None:
            st.toast(f"`{name}={invalid}` is not a minute, such as 2025-01-31T00:05.", icon=":material/warning:")
    with st.container(horizontal=True, key="custom"):
        start, end = (
            st.datetime_input(
                label, key=name, step=60, min_value=EARLIEST, max_value=LATEST, width=240, format="YYYY-MM-DD"
            )
            for label, name in (("From (UTC)", FROM), ("To (UTC)", TO))
        )
    if start > end:
        st.warning("**The range ends before it starts.**", icon=":material/warning:")
    return start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)


def _time(text: str) -> datetime | None:
    """Parse a minute of the URL to a naive UTC time, as the widgets take it; None if it is invalid."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is not None:
        found = found.astimezone(UTC).replace(tzinfo=None)
    return found.replace(second=0, microsecond=0) if EARLIEST <= found <= LATEST else None


def _minute(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(timespec="minutes")


def _bars(view: View, feed: Feed, *, is_live: bool) -> None:
    """Draw the live part. Streamlit reruns it every few seconds, without a reload of the page."""
    notice = st.container(key="notice")  # always present, so that the elements after it keep their place
    with_error_box(lambda: _draw(view, feed, notice), retries=not is_live)


def _draw(view: View, feed: Feed, notice: Any) -> None:
    page = _page(view, notice)
    if page is None:
        no_mart_yet(f"{view.timeframe} bars")
        return
    bars = _of_range(view, page["bars"][::-1])
    if not bars:
        st.info(f"**No bars of {view.symbol} in this range.** Choose a longer one.", icon=":material/search_off:")
        return
    cut = page["next_cursor"] is not None
    caption = counted(len(bars), "bar")
    _headline(view, bars, f"in the newest {caption}" if cut else "in the range")
    title = f"{market_title(view.exchange)} · {view.symbol} · {view.timeframe}"
    chart.candles(feed, view.about, title, rows(bars), price_places(bars))
    caption += f", {minute(bars[0]['window_start'])} to {minute(bars[-1]['window_start'])} UTC"
    if cut:
        caption = f"Newest {caption}; the range has more bars. Choose a longer timeframe, or download the range"
    if len(bars) > TABLE_ROWS:
        caption += f" · the table has the newest {TABLE_ROWS:,}"
    st.caption(f"{caption} · snapshot {page['snapshot_id']}")
    exact_table(bars[: -TABLE_ROWS - 1 : -1], TABLE, key="bars", max_rows=10)


def _page(view: View, notice: Any) -> dict[str, Any] | None:
    """Return the page with the view's bars, newest first; the last one while the API cannot be read."""
    shown: tuple[View, dict[str, Any] | None] | None = st.session_state.get("shown")
    with notice:
        try:
            if shown is not None and shown[0] == view:
                page = lake().page(view.path, **view.query, order="desc", limit=MAX_ROWS)
            else:
                with st.spinner("Reading the bars …"):
                    page = lake().page(view.path, **view.query, order="desc", limit=MAX_ROWS)
        except ApiError as error:
            if shown is None or shown[0] != view:
                raise
            problem(error)
            return shown[1]
    st.session_state["shown"] = (view, page)
    return page


def _of_range(view: View, bars: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop bars before the range, whose start has moved with the newest bar since the page was opened."""
    length = RANGES.get(view.range)
    if length is None or not bars:
        return bars
    first = first_open_time(moment(bars[-1]["window_start"]), length, TIMEFRAMES[view.timeframe])
    since = "" if first is None else f"{first:%Y-%m-%dT%H:%M:%SZ}"
    return [bar for bar in bars if bar["window_start"] >= since]


def _headline(view: View, bars: list[dict[str, Any]], scope: str) -> None:
    """Draw the newest bar, that of other markets, and aggregates of all bars; `scope` describes their range."""
    newest, decimals = bars[-1], price_places(bars)
    rise = float(newest["close"]) / float(bars[0]["open"]) - 1
    highest = max(bars, key=lambda bar: float(bar["high"]))["high"]
    lowest = min(bars, key=lambda bar: float(bar["low"]))["low"]
    with st.container(horizontal=True, key="headline"):
        st.metric(
            "Close",
            grouped(fixed(newest["close"], decimals)),
            f"{rise:+.2%} {scope}",
            delta_color="off",
            width="content",
        )
        st.metric("High", grouped(fixed(highest, decimals)), width="content", help=scope.capitalize())
        st.metric("Low", grouped(fixed(lowest, decimals)), width="content", help=scope.capitalize())
        st.metric("Trades", f"{sum(bar['trades'] for bar in bars):,}", width="content", help=scope.capitalize())
        st.metric("Newest bar (UTC)", minute(newest["window_start"]), width="content", help="Open time")
        for exchange in view.others:
            _other_market(view, exchange, newest)


def _other_market(view: View, exchange: str, newest: dict[str, Any]) -> None:
    """Draw the close of another market's bar of the same time, if there is one."""
    time = newest["window_start"]
    page = lake().page(view.path, exchange=exchange, symbol=view.symbol, start=time, end=time)
    for bar in page["bars"] if page else ():
        premium = float(newest["close"]) / float(bar["close"]) - 1
        title = market_title(exchange)
        st.metric(
            f"{title} close",
            grouped(plain(bar["close"])),
            f"{premium:+.3%}",
            delta_color="off",
            width="content",
            help=f"Of the same bar. Below: {market_title(view.exchange)} relative to {title}.",
        )


def _downloads(view: View) -> None:
    errors: dict[str, ApiError] = {}
    with st.container(horizontal=True, key="downloads"):
        for fmt, mime in (("csv", "text/csv"), ("parquet", "application/vnd.apache.parquet")):
            st.download_button(
                fmt.upper() if fmt == "csv" else "Parquet",
                _file(view, fmt, errors),
                file_name=f"{view.exchange}-{view.symbol}-{view.timeframe}.{fmt}",
                mime=mime,
                icon=":material/download:",
                on_click="ignore",
                key=f"download-{fmt}",
                help="All bars of the range, with all stored digits.",
            )
    st.fragment(_download_errors, run_every=ERROR_POLL_S)(errors)


def _download_errors(errors: Mapping[str, ApiError]) -> None:
    """Show the errors of failed downloads. Polled, because Streamlit fetches files outside of the page's script."""
    for error in tuple(errors.values()):
        problem(error)


def _file(view: View, fmt: str, errors: dict[str, ApiError]) -> Callable[[], bytes]:
    """Return a function that fetches the file on demand and stores an error in `errors`: Streamlit shows none."""
    client, query = lake(), dict(view.query)

    def fetch() -> bytes:
        errors.pop(fmt, None)
        try:
            return client.file(view.path, fmt, **query)
        except ApiError as error:
            errors[fmt] = error
            raise

    return fetch
