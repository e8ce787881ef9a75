"""Pictures are SVG that parses, with every candle at its place."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from xml.etree import ElementTree

from cryptolake_assets.transform.candlesticks import (
    FALLING,
    MAX_SYMBOLS,
    RISING,
    WIDTH,
    Candle,
    as_markdown,
    candlesticks,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def candle(minute: int, open_: str, close: str, symbol: str = "BTCUSDT", turnover: str = "1") -> Candle:
    prices = sorted((Decimal(open_), Decimal(close)))
    return Candle(
        symbol=symbol,
        start=START + minute * MINUTE,
        open=Decimal(open_),
        high=prices[1] + 1,
        low=prices[0] - 1,
        close=Decimal(close),
        volume=Decimal(minute + 1),
        turnover=Decimal(turnover),
    )


def draw(*candles: Candle) -> ElementTree.Element:
    return ElementTree.fromstring(candlesticks(candles, START, START + 60 * MINUTE, MINUTE))  # noqa: S314  our own text


def paths(svg: ElementTree.Element, colour: str) -> str:
    found = [item.attrib["d"] for item in svg.iter() if colour in (item.get("fill"), item.get("stroke"))]
    return " ".join(text for text in found if text)


def test_every_candle_is_drawn_in_its_colour_and_inside() -> None:
    svg = draw(candle(0, "100", "105"), candle(30, "105", "103"), candle(59, "103", "103"))
    assert paths(svg, RISING).count("z") == 2
    assert paths(svg, FALLING).count("z") == 1
    places = [float(x) for text in (paths(svg, RISING), paths(svg, FALLING)) for x in re.findall(r"M([\d.]+)", text)]
    assert 0 < min(places) < max(places) < WIDTH


def test_higher_prices_are_drawn_higher() -> None:
    svg = draw(candle(0, "100", "101"), candle(1, "200", "201"))
    heights = [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)h", paths(svg, RISING))]
    assert heights[0] > heights[1]


def test_the_busiest_symbols_are_shown() -> None:
    svg = draw(*(candle(0, "1", "2", f"S{number}", str(number)) for number in range(MAX_SYMBOLS + 2)))
    titles = [item.text or "" for item in svg.iter() if item.tag.endswith("text")]
    assert [title.split()[0] for title in titles] == ["S5", "S4", "S3", "S2"]


def test_one_price_and_no_volume_are_drawn_too() -> None:
    flat = Candle("A", START, *(Decimal(1),) * 4, volume=Decimal(0), turnover=Decimal(0))
    assert paths(draw(flat), RISING).count("z") == 1


def test_an_hour_is_a_few_kilobytes() -> None:
    text = as_markdown(
        candlesticks(
            [candle(n, "100", str(90 + n), s) for n in range(60) for s in "ABCD"], START, START + 60 * MINUTE, MINUTE
        ),
        "t",
    )
    assert len(text) < 40_000
    assert base64.b64decode(text.split("base64,")[1][:-1]).startswith(b"<svg")
