"""Altair charts of daily values and of volume by price. Pure.

Floats are for drawing only: tooltips show the exact text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from cryptolake_assets.dashboard.palette import Palette
from cryptolake_assets.dashboard.series import exact, grouped

Days = Sequence[Mapping[str, Any]]
Drawing = Any  # an Altair chart, whose methods are not typed

HEIGHT_PX = 240
SMALL_HEIGHT_PX = 120
PROFILE_HEIGHT_PX = 360
WIDTH_PX = 480  # approximate width of a chart, from which the width of bars is computed
WIDEST_BAR_PX = 24
PRICES = ("open", "high", "low", "close")
VOLUME = "Volume (base)"
DAY_TOOLTIP = alt.Tooltip("trade_date:N", title="Day (UTC)")


def prices(days: Days, colours: Palette) -> Drawing:
    """Return candlesticks: bars from open to close over lines from low to high."""
    rises = alt.condition("datum.close >= datum.open", alt.value(colours.up), alt.value(colours.down))
    base = alt.Chart(_drawn(days, *PRICES), height=HEIGHT_PX).encode(_day(), color=rises, tooltip=_tooltip(*PRICES))
    scale = alt.Scale(zero=False)
    # The outline keeps a day visible whose close equals its open.
    bars = base.mark_bar(size=_bar_px(days), strokeWidth=1.5).encode(
        alt.Y("open:Q", title=None, scale=scale), alt.Y2("close:Q"), stroke=rises
    )
    return alt.layer(base.mark_rule().encode(alt.Y("low:Q", title=None, scale=scale), alt.Y2("high:Q")), bars)


def returns(days: Days, colours: Palette) -> Drawing:
    """Return log returns as bars from zero."""
    rises = alt.condition("datum.log_return >= 0", alt.value(colours.up), alt.value(colours.down))
    chart = alt.Chart(_drawn(days, "log_return"), height=HEIGHT_PX).mark_bar(size=_bar_px(days))
    return chart.encode(_day(), _share("log_return"), color=rises, tooltip=_tooltip("log_return"))


def line(days: Days, name: str, colours: Palette) -> Drawing:
    """Return a line of a daily ratio, such as volatility."""
    chart = alt.Chart(_drawn(days, name), height=HEIGHT_PX)
    point = alt.OverlayMarkDef(color=colours.accent)
    return chart.mark_line(point=point, color=colours.accent).encode(_day(), _share(name), tooltip=_tooltip(name))


def funding(days: Days, colours: Palette) -> Drawing:
    """Return the funding rates per day as bars from zero. Rows have `trade_date` and `funding_rate`."""
    rises = alt.condition("datum.funding_rate >= 0", alt.value(colours.up), alt.value(colours.down))
    chart = alt.Chart(_drawn(days, "funding_rate"), height=SMALL_HEIGHT_PX).mark_bar(size=_bar_px(days))
    axis = alt.Axis(format=".3%", tickCount=4)
    return chart.encode(
        _day(), alt.Y("funding_rate:Q", title=None, axis=axis), color=rises, tooltip=_tooltip("funding_rate")
    )


def sentiment(days: Days, colours: Palette) -> Drawing:
    """Return the Fear & Greed index on its scale of 0 to 100. Rows have `index_date`, `value`, `classification`."""
    rows = [{"trade_date": day["index_date"], **day} for day in sorted(days, key=lambda day: str(day["index_date"]))]
    chart = alt.Chart(pd.DataFrame(rows), height=HEIGHT_PX)
    point = alt.OverlayMarkDef(color=colours.accent, size=12)
    return chart.mark_line(point=point, color=colours.accent).encode(
        _day(),
        alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(values=[0, 25, 50, 75, 100])),
        tooltip=[DAY_TOOLTIP, *(alt.Tooltip(f"{name}:N", title=_label(name)) for name in ("value", "classification"))],
    )


def profile(buckets: Sequence[Mapping[str, Any]], colours: Palette) -> Drawing:
    """Return volume by price. Rows have the decimals `low`, `high` and `volume`."""
    rows = [
        {name: float(bucket[name]) for name in ("low", "high", "volume")}
        | {f"{name}_text": grouped(exact(f"{bucket[name]:f}")) for name in ("low", "high", "volume")}
        for bucket in buckets
    ]
    titles = {"low": "Price from", "high": "Price to", "volume": VOLUME}
    return (
        alt.Chart(pd.DataFrame(rows), height=PROFILE_HEIGHT_PX)
        .mark_bar(color=colours.up, stroke=colours.neutral, strokeWidth=0.5)
        .encode(
            alt.Y("low:Q", title="Price", scale=alt.Scale(zero=False)),
            alt.Y2("high:Q"),
            alt.X("volume:Q", title=VOLUME, axis=alt.Axis(tickCount=6), scale=alt.Scale(zero=True)),
            alt.X2(datum=0),
            tooltip=[alt.Tooltip(f"{name}_text:N", title=title) for name, title in titles.items()],
        )
    )


def _drawn(days: Days, *names: str) -> pd.DataFrame:
    """Return days, oldest first, with floats to draw and the exact text as `<name>_text`."""
    rows = [
        {"trade_date": day["trade_date"]}
        | {name: None if day[name] is None else float(day[name]) for name in names}
        | {f"{name}_text": _exact(day[name]) for name in names}
        for day in sorted(days, key=lambda day: str(day["trade_date"]))
    ]
    return pd.DataFrame(rows)


def _bar_px(days: Days) -> int:
    return max(1, min(WIDEST_BAR_PX, WIDTH_PX * 2 // (3 * max(1, len(days)))))


def _day() -> alt.X:
    return alt.X("trade_date:O", title=None, axis=alt.Axis(labelOverlap=True, labelAngle=0))


def _share(name: str) -> alt.Y:
    return alt.Y(f"{name}:Q", title=None, axis=alt.Axis(format=".2%"))


def _tooltip(*names: str) -> list[alt.Tooltip]:
    return [DAY_TOOLTIP, *(alt.Tooltip(f"{name}_text:N", title=_label(name)) for name in names)]


def _label(name: str) -> str:
    """Return a column's name in sentence case: `Log return`."""
    return name.replace("_", " ").capitalize()


def _exact(number: str | float | None) -> str:
    return "" if number is None else grouped(exact(number))
