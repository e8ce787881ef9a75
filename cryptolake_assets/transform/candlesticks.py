"""Small pictures of bars as SVG text, for people who look rather than read. Pure.

Drawn here because a chart library would cost a run more than the run itself: a second of import for a few lines.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from html import escape
from typing import Any

WIDTH, PRICE_HEIGHT, VOLUME_HEIGHT, MARGIN = 640, 120, 32, 8
PANEL = PRICE_HEIGHT + VOLUME_HEIGHT + 4 * MARGIN
RISING, FALLING, INK, PAPER = "#26a69a", "#ef5350", "#5f6b7a", "#ffffff"
MAX_SYMBOLS = 4


@dataclass(frozen=True)
class Candle:
    """One bar: its open time and its figures; `turnover` (quote volume) ranks the symbols."""

    symbol: str
    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal

    @classmethod
    def of(cls, row: Mapping[str, Any], start: datetime, volume: str, turnover: str) -> Candle:
        """Of a table's row: what the tables call alike is taken by name, volume and turnover from these columns."""
        prices = {name: row[name] for name in ("open", "high", "low", "close")}
        return cls(symbol=row["symbol"], start=start, **prices, volume=row[volume], turnover=row[turnover])

    @property
    def is_rising(self) -> bool:
        return self.close >= self.open


def candlesticks(candles: Iterable[Candle], start: datetime, end: datetime, step: timedelta) -> str:
    """An SVG: of the symbols with most turnover one panel each, candles and volume of [start, end) by time."""
    by_symbol: dict[str, list[Candle]] = {}
    for candle in candles:
        by_symbol.setdefault(candle.symbol, []).append(candle)
    busiest = sorted(by_symbol, key=lambda symbol: -sum(candle.turnover for candle in by_symbol[symbol]))
    panels = [
        _panel(by_symbol[symbol], start, end, step, number * PANEL)
        for number, symbol in enumerate(busiest[:MAX_SYMBOLS])
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{max(1, len(panels)) * PANEL}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="{PAPER}"/>'
        f"{''.join(panels)}</svg>"
    )


def as_markdown(svg: str, title: str) -> str:
    """The picture as a Markdown image that carries its own data."""
    data = base64.b64encode(svg.encode()).decode()
    return f"![{title}](data:image/svg+xml;base64,{data})"


def _panel(candles: Sequence[Candle], start: datetime, end: datetime, step: timedelta, top: int) -> str:
    """One symbol; a path for each colour holds all wicks and bodies, so that a picture stays a few KB."""
    low, high = min(candle.low for candle in candles), max(candle.high for candle in candles)
    max_volume = max(candle.volume for candle in candles)
    slot = (WIDTH - 2 * MARGIN) / max(1.0, (end - start) / step)
    width = max(0.6, min(8.0, slot * 0.7))
    price_top, bottom = top + 2.5 * MARGIN, top + PANEL - MARGIN

    def y(price: Decimal) -> float:
        return price_top + (float((high - price) / (high - low)) if high > low else 0.5) * PRICE_HEIGHT

    wicks: dict[bool, list[str]] = {True: [], False: []}
    boxes: dict[bool, list[str]] = {True: [], False: []}
    volumes = []
    for candle in candles:
        x = MARGIN + ((candle.start - start) / step + 0.5) * slot
        upper, lower = sorted((y(candle.open), y(candle.close)))
        wicks[candle.is_rising].append(f"M{x:.1f} {y(candle.high):.1f}V{y(candle.low):.1f}")
        boxes[candle.is_rising].append(_box(x - width / 2, upper, width, max(0.8, lower - upper)))
        tall = float(candle.volume / max_volume) * VOLUME_HEIGHT if max_volume else 0.0
        volumes.append(_box(x - width / 2, bottom - tall, width, tall))
    head = f"{escape(candles[0].symbol)}   {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}   {low:f} to {high:f}"
    shapes = [f'<text x="{MARGIN}" y="{top + 14}" fill="{INK}">{head}</text>']
    for is_rising, colour in ((True, RISING), (False, FALLING)):
        shapes.append(f'<path d="{"".join(wicks[is_rising])}" stroke="{colour}"/>')
        shapes.append(f'<path d="{"".join(boxes[is_rising])}" fill="{colour}"/>')
    shapes.append(f'<path d="{"".join(volumes)}" fill="{INK}" opacity="0.5"/>')
    return "".join(shapes)


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"
