"""Daily page: a symbol's UTC days with prices, returns, volatility, drawdown, volume profile and the Gold table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal, localcontext
from typing import Any

import streamlit as st

from cryptolake_assets.dashboard import address, drawings, palette
from cryptolake_assets.dashboard.lake import MAX_ROWS, moment
from cryptolake_assets.dashboard.series import grouped, plain
from cryptolake_assets.dashboard.shared import (
    UNKNOWN,
    attempt,
    choose_symbol,
    exact_table,
    lake,
    no_bars_yet,
    no_mart_yet,
    problem,
)
from cryptolake_assets.errors import ApiRejectedError

Days = list[dict[str, Any]]

SPAN = "90d"  # default
SPANS: dict[str, int | None] = {"30d": 30, "90d": 90, "1y": 365, "all": None}
EXACT_DIGITS = 60  # more than any sum of volumes needs
TABLE = {
    "trade_date": "Day (UTC)",
    "open": "Open",
    "high": "High",
    "low": "Low",
    "close": "Close",
    "total_volume": "Volume (base)",
    "total_quote_volume": "Quote volume",
    "vwap": "VWAP",
    "price_range": "Price range",
    "trades": "Trades",
    "taker_buy_ratio": "Taker buy ratio",
    "realised_volatility": "Realised volatility",
    "log_return": "Log return",
    "drawdown": "Drawdown",
    "minutes_with_trades": "Minutes with trades",
    "is_complete": "Complete",
}


def render() -> None:
    symbols = lake().symbols()
    if not symbols:
        no_bars_yet()
        return
    with st.container(horizontal=True, vertical_alignment="bottom", key="choice"):
        symbol = choose_symbol(symbols)
        span = st.segmented_control("Days", tuple(SPANS), default=SPAN, key="days", required=True, bind="query-params")
    topic = {"exchange": symbol["exchange"], "symbol": symbol["symbol"]}
    address.write(**topic)
    length = SPANS[span or SPAN]
    last = moment(symbol["last_minute"]).date()
    start = None if length is None else last - timedelta(days=length - 1)
    name = symbol["symbol"]
    with st.spinner("Reading the days …"):
        days = _days("/stats/daily", start, **topic)
        returns = _days("/returns/daily", start, **topic)
    if not days:
        st.info(
            f"**No daily statistics of {name} yet.** Gold is computed within minutes after Silver.",
            icon=":material/hourglass_empty:",
        )
        return
    sentiment = _days("/sentiment", start, last)
    funding = _funding(topic, start, last)
    _headline(days, returns, sentiment)
    colours = palette.DARK if st.context.theme.type == "dark" else palette.LIGHT
    _charts(days, returns, sentiment, funding, colours)
    _profile(topic, start, colours)
    st.subheader("Daily statistics", anchor=False)
    by_day = {day["trade_date"]: day for day in returns or ()}
    rows = [
        {**day, **{name: by_day.get(day["trade_date"], {}).get(name) for name in ("log_return", "drawdown")}}
        for day in days
    ]
    exact_table(rows, TABLE, key="daily", max_rows=15)


def _days(path: str, start: date | None, end: date | None = None, **topic: str) -> Days | None:
    """Return days, newest first; None while the table does not exist."""
    page = lake().page(path, **topic, start=start, end=end, order="desc", limit=MAX_ROWS)
    return None if page is None else page["days"]


def _headline(days: Days, returns: Days | None, sentiment: Days | None) -> None:
    newest = days[0]
    with st.container(horizontal=True, key="headline"):
        st.metric("Close", grouped(plain(newest["close"])), width="content", help=f"UTC day {newest['trade_date']}")
        if returns and returns[0]["log_return"] is not None:
            st.metric("Log return", f"{returns[0]['log_return']:+.2%}", width="content")
        volatility = newest["realised_volatility"]
        st.metric("Realised volatility", UNKNOWN if volatility is None else f"{volatility:.2%}", width="content")
        if returns:
            description = "Distance of the close below the highest close so far"
            st.metric("Drawdown", f"{float(returns[0]['drawdown']):.2%}", width="content", help=description)
        if sentiment:
            index = sentiment[0]
            description = f"{index['index_date']}: {index['classification']}. 0 is extreme fear, 100 extreme greed."
            st.metric("Fear & Greed", str(index["value"]), width="content", help=description)
        st.metric("Volume (base)", grouped(plain(newest["total_volume"])), width="content")
        st.metric("Trades", f"{newest['trades']:,}", width="content")


def _charts(days: Days, returns: Days | None, sentiment: Days | None, funding: Days, colours: palette.Palette) -> None:
    left, right = st.columns(2)
    with right:
        _sentiment(sentiment, colours)
        if funding:
            st.subheader(
                "Funding", anchor=False, help="Sum of the funding rates charged per day. Above 0, longs pay shorts."
            )
            st.altair_chart(drawings.funding(funding, colours), alt="Sum of the funding rates by day")
    with left:
        st.subheader("Price", anchor=False)
        st.altair_chart(drawings.prices(days, colours), alt="Daily high to low, open to close")
        st.subheader("Realised volatility", anchor=False)
        st.altair_chart(drawings.line(days, "realised_volatility", colours), alt="Realised volatility by day")
        if returns:
            st.subheader("Drawdown", anchor=False)
            st.altair_chart(drawings.line(returns, "drawdown", colours), alt="Drawdown by day")
    with right:
        st.subheader("Returns", anchor=False)
        if returns is None:
            no_mart_yet("daily returns")
            return
        known = [day for day in returns if day["log_return"] is not None]
        if known:
            st.altair_chart(drawings.returns(known, colours), alt="Log return by day")
        else:
            st.info("A return needs two consecutive days.", icon=":material/hourglass_empty:")


def _sentiment(sentiment: Days | None, colours: palette.Palette) -> None:
    """Draw the Fear & Greed index."""
    st.subheader("Fear & Greed", anchor=False)
    if sentiment:
        st.altair_chart(drawings.sentiment(sentiment, colours), alt="Fear & Greed index by day, 0 to 100")
    else:
        st.info("**No index of these days yet.**", icon=":material/hourglass_empty:")


def _funding(topic: Mapping[str, str], start: date | None, end: date) -> Days:
    """Return the charged funding rates, summed by UTC day; empty if there are none or the table does not exist."""
    page = lake().page("/funding", **topic, start=start, order="desc", limit=MAX_ROWS)
    return [day for day in funding_days(page["rates"] if page else []) if day["trade_date"] <= end.isoformat()]


def funding_days(rates: list[dict[str, Any]]) -> Days:
    """Return rows of `trade_date`, `funding_rate` (exact, as text) and `fundings`, from rows of `/funding`."""
    days: defaultdict[str, list[Decimal]] = defaultdict(list)
    for rate in rates:
        days[rate["funding_time"][:10]].append(Decimal(rate["funding_rate"]))
    return [
        {"trade_date": day, "funding_rate": f"{sum(found):f}", "fundings": len(found)} for day, found in days.items()
    ]


def _profile(topic: Mapping[str, str], start: date | None, colours: palette.Palette) -> None:
    """Draw the volume by price bucket over the days, summed exactly."""
    st.subheader("Volume profile", anchor=False)
    table = attempt(lambda: lake().table("/profile/hourly", **topic, start=start))
    if isinstance(table, ApiRejectedError):
        problem(table)
        return
    if table is None:
        no_mart_yet("volume profiles")
        return
    if not table.num_rows:
        st.info("No volume profile of these days yet.", icon=":material/hourglass_empty:")
        return
    summed = table.group_by(["bucket_low", "bucket_width"]).aggregate([("volume", "sum")])
    st.altair_chart(drawings.profile(buckets(summed.to_pylist()), colours), alt="Volume by price")


def buckets(rows: list[dict[str, Any]]) -> list[dict[str, Decimal]]:
    """Merge rows of `bucket_low`, `bucket_width` and `volume_sum` to buckets of one width: `low`, `high`, `volume`.

    Widths are powers of ten that depend on the price; finer buckets are added to the widest ones.
    """
    width: Decimal = max(row["bucket_width"] for row in rows)
    volumes: defaultdict[Decimal, Decimal] = defaultdict(Decimal)
    with localcontext(prec=EXACT_DIGITS):
        for row in rows:
            volumes[row["bucket_low"] // width * width] += row["volume_sum"]
    return [{"low": low, "high": low + width, "volume": volumes[low]} for low in sorted(volumes)]
