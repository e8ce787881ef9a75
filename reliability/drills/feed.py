"""The generated trades of a drill: a capture for the replay exchange, and its exact bars, which the oracle compares.

Ids of a symbol are consecutive, so that the emitted ids at any time are known from the number of passed frames.
"""

from __future__ import annotations

import csv
import random
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from cryptolake_assets.captures.writer import CaptureWriter
from cryptolake_assets.model.exchange_records import KLINE_HEADER
from cryptolake_assets.model.windows import MINUTE_US

RECEIVED_AFTER_US = 20_000  # delay between a trade and its frame
FIRST_ID = 10_000
PRICE_STEP, QTY_STEP = Decimal("0.01"), Decimal("0.001")
VWAP_STEP = Decimal("1e-8")
PRICES = (6_400_000, 342_000, 15_000, 60_000)  # first prices by symbol, in steps

BarKey = tuple[str, int]  # symbol, start of the minute in ms since 1970


@dataclass(frozen=True)
class Burst:
    """Seconds of a feed, [begin_s, end_s), with a rate of their own."""

    begin_s: int
    end_s: int
    per_s: int


@dataclass(frozen=True)
class Feed:
    """The frames of a drill's exchange: `per_s` bounds their number, which is drawn for each second."""

    seed: int
    seconds: int
    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")
    per_s: tuple[int, int] = (20, 50)
    begins: datetime | None = None  # a full minute; None: drawn so that the run crosses an hour, and sometimes a day
    bursts: tuple[Burst, ...] = ()

    def rate(self, second: int, draw: random.Random) -> int:
        """Return the number of frames of a second."""
        of_burst = (burst.per_s for burst in self.bursts if burst.begin_s <= second < burst.end_s)
        return next(of_burst, 0) or draw.randint(*self.per_s)


@dataclass(slots=True)
class ExactBar:
    """A minute's bar in whole steps of price and quantity, without rounding."""

    open: int
    first_trade_id: int
    high: int = 0
    low: int = 1 << 62
    close: int = 0
    last_trade_id: int = 0
    trades: int = 0
    volume: int = 0
    quote_volume: int = 0
    taker_buy_volume: int = 0
    taker_buy_quote_volume: int = 0

    def add(self, price: int, qty: int, first_id: int, last_id: int, *, is_buy: bool) -> None:
        """Add the next trade of the minute."""
        self.high, self.low, self.close = max(self.high, price), min(self.low, price), price
        self.trades += last_id - first_id + 1
        self.last_trade_id = last_id
        self.volume += qty
        self.quote_volume += price * qty
        if is_buy:
            self.taker_buy_volume += qty
            self.taker_buy_quote_volume += price * qty

    def columns(self) -> dict[str, Decimal | int]:
        """Return the bar's columns as the Silver table names them."""
        scaled = self.quote_volume * int(PRICE_STEP / VWAP_STEP)
        vwap_steps = (2 * scaled + self.volume) // (2 * self.volume)  # rounded half up
        return {
            **{name: getattr(self, name) * PRICE_STEP for name in ("open", "high", "low", "close")},
            **{name: getattr(self, name) * QTY_STEP for name in ("volume", "taker_buy_volume")},
            **{
                name: getattr(self, name) * PRICE_STEP * QTY_STEP for name in ("quote_volume", "taker_buy_quote_volume")
            },
            "vwap": vwap_steps * VWAP_STEP,
            **{name: getattr(self, name) for name in ("trades", "first_trade_id", "last_trade_id")},
            "trades_dropped": 0,
        }


@dataclass
class Emitted:
    """All trades of a feed: which symbol each frame is of, in the order sent, and the exact bars of each minute."""

    feed: Feed
    directory: Path
    begins: datetime
    bars: dict[BarKey, ExactBar] = field(default_factory=dict)
    last_of_minute: dict[BarKey, int] = field(default_factory=dict)  # id of its last frame
    order: array[int] = field(default_factory=lambda: array("H"))  # position in `feed.symbols`, by frame

    def last_ids(self, frames: int) -> dict[str, int]:
        """Return the id of each symbol's last trade within the first `frames` frames; the first id is `FIRST_ID`."""
        counts = Counter(self.order[:frames])
        return {symbol: FIRST_ID + counts[number] - 1 for number, symbol in enumerate(self.feed.symbols)}


def write_feed(feed: Feed, directory: Path) -> Emitted:
    """Write the capture, and its klines as the exchange publishes them, to a new directory."""
    draw = random.Random(feed.seed)
    emitted = Emitted(feed, directory, feed.begins or _drawn_begin(draw, feed.seconds))
    writer = CaptureWriter(directory, "drill", rotate_s=10**9)
    for received_at_us, frame in _frames(emitted, draw):
        writer.write(received_at_us, frame)
    writer.close()
    for symbol in feed.symbols:
        _write_klines(emitted, symbol)
    return emitted


def _drawn_begin(draw: random.Random, seconds: int) -> datetime:
    day = datetime(2026, 5, 8, tzinfo=UTC) + timedelta(days=draw.randrange(20))
    hours = 24 if draw.random() < 0.25 else draw.randrange(2, 24)
    return day + timedelta(hours=hours) - timedelta(minutes=draw.randint(3, max(4, seconds // 120)))


def _frames(emitted: Emitted, draw: random.Random) -> Iterator[tuple[int, bytes]]:
    """Yield (receive time in µs, frame); fold each trade into its bar."""
    feed = emitted.feed
    names = [symbol.lower() for symbol in feed.symbols]
    prices = [PRICES[number % len(PRICES)] for number in range(len(names))]
    ids = [FIRST_ID] * len(names)
    single_ids = [5 * FIRST_ID] * len(names)
    began_us = round(emitted.begins.timestamp()) * 1_000_000
    for second in range(feed.seconds):
        count = feed.rate(second, draw)
        for at_us in sorted(draw.randrange(1_000_000) for _ in range(count)):
            number = draw.randrange(len(names))
            price = prices[number] = max(1, prices[number] + draw.randint(-20, 20))
            qty = draw.randint(1, 2_000)
            is_maker = draw.random() < 0.5
            first_id = single_ids[number]
            last_id = single_ids[number] = first_id + draw.randrange(3)
            time_us = began_us + second * 1_000_000 + at_us
            time_ms = time_us // 1_000
            key = feed.symbols[number], time_us // MINUTE_US * (MINUTE_US // 1_000)
            bar = emitted.bars.get(key) or emitted.bars.setdefault(key, ExactBar(price, first_id))
            bar.add(price, qty, first_id, last_id, is_buy=not is_maker)
            emitted.order.append(number)
            emitted.last_of_minute[key] = ids[number]
            yield (
                time_us + RECEIVED_AFTER_US,
                (
                    f'{{"stream":"{names[number]}@aggTrade","data":{{"e":"aggTrade","E":{time_ms},'
                    f'"s":"{feed.symbols[number]}","a":{ids[number]},"p":"{price // 100}.{price % 100:02}",'
                    f'"q":"{qty // 1000}.{qty % 1000:03}","f":{first_id},"l":{last_id},"T":{time_ms},'
                    f'"m":{str(is_maker).lower()}}}}}'
                ).encode(),
            )
            ids[number] += 1
            single_ids[number] += 1


def _write_klines(emitted: Emitted, symbol: str) -> None:
    path = emitted.directory / f"{symbol}-1m-{emitted.begins:%Y-%m-%d}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(KLINE_HEADER)
        for (owner, start_ms), bar in emitted.bars.items():
            if owner == symbol:
                rows.writerow(_kline(start_ms, bar))


def _kline(start_ms: int, bar: ExactBar) -> Sequence[object]:
    column = bar.columns()
    first = [start_ms, *(column[name] for name in ("open", "high", "low", "close", "volume"))]
    last = [column[name] for name in ("trades", "taker_buy_volume", "taker_buy_quote_volume")]
    return [*first, start_ms + MINUTE_US // 1_000 - 1, column["quote_volume"], *last, 0]


def minute_begin(minutes_from_now: int = 0) -> datetime:
    """Return the start of the current minute, or of one of the next: the begin of a feed with present times."""
    return datetime.fromtimestamp(time.time() // 60 * 60, UTC) + timedelta(minutes=minutes_from_now)
