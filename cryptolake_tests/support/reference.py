"""Bars and daily stats in plain Python: an independent reference for Silver and Gold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import pairwise
from typing import Any

Trade = dict[str, Any]
"""The contract's columns, with Decimal numbers and aware times."""


def reference_bars(trades: Iterable[Trade], minutes: int = 1) -> dict[tuple[str, str, datetime], dict[str, Any]]:
    """Return bars of `minutes` (a divisor of a day) of valid MARKET trades, by (exchange, symbol, open time).

    A window has trades of one stream. Duplicates count once; the order is (event_time, trade_id).
    """

    def window_of(trade: Trade) -> tuple[str, str, datetime]:
        return trade["exchange"], trade["symbol"], open_time(trade["event_time"], minutes)

    distinct = {(trade["exchange"], trade["symbol"], trade["stream"], trade["trade_id"]): trade for trade in trades}
    windows: dict[tuple[str, str, datetime], list[Trade]] = defaultdict(list)
    for trade in distinct.values():
        if trade["trade_type"] == "MARKET" and _is_valid(trade):
            windows[window_of(trade)].append(trade)
    dropped = Counter(
        window_of(trade) for trade in distinct.values() if trade["trade_type"] == "MARKET" and not _is_valid(trade)
    )
    return {key: {**_bar(members), "trades_dropped": dropped[key]} for key, members in windows.items()}


def _is_valid(trade: Trade) -> bool:
    return bool(trade["price"] > 0 and trade["qty"] > 0 and trade["price"] * trade["qty"] < 10**15)


def open_time(moment: datetime, minutes: int) -> datetime:
    """Return the start of the window of `minutes`, counted from midnight UTC, that contains the moment."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    length = timedelta(minutes=minutes)
    return midnight + (moment - midnight) // length * length


def _bar(trades: list[Trade]) -> dict[str, Any]:
    ordered = sorted(trades, key=lambda trade: (trade["event_time"], trade["trade_id"]))
    bought = [trade for trade in ordered if trade["side"] == "buy"]
    with localcontext() as context:
        context.prec = 80
        volume = sum((trade["qty"] for trade in ordered), Decimal(0))
        quote_volume = sum((trade["price"] * trade["qty"] for trade in ordered), Decimal(0))
        return {
            "open": ordered[0]["price"],
            "high": max(trade["price"] for trade in ordered),
            "low": min(trade["price"] for trade in ordered),
            "close": ordered[-1]["price"],
            "volume": volume,
            "quote_volume": quote_volume,
            "vwap": (quote_volume / volume).quantize(Decimal("1e-8"), ROUND_HALF_UP),
            "trades": sum(trade["last_trade_id"] - trade["first_trade_id"] + 1 for trade in ordered),
            "taker_buy_volume": sum((trade["qty"] for trade in bought), Decimal(0)),
            "taker_buy_quote_volume": sum((trade["price"] * trade["qty"] for trade in bought), Decimal(0)),
            "first_trade_id": min(trade["first_trade_id"] for trade in ordered),
            "last_trade_id": max(trade["last_trade_id"] for trade in ordered),
        }


def reference_daily(
    bars: dict[tuple[str, str, datetime], dict[str, Any]],
) -> dict[tuple[str, str, date], dict[str, Any]]:
    """Return daily stats of reference bars, by (exchange, symbol, UTC day); `realised_volatility` has 50 digits."""
    days: dict[tuple[str, str, date], list[dict[str, Any]]] = defaultdict(list)
    for (exchange, symbol, start), bar in sorted(bars.items()):
        days[exchange, symbol, start.date()].append(bar)
    return {key: _day(members) for key, members in days.items()}


def _day(bars: list[dict[str, Any]]) -> dict[str, Any]:
    with localcontext() as context:
        context.prec = 80
        volume = sum((bar["volume"] for bar in bars), Decimal(0))
        quote_volume = sum((bar["quote_volume"] for bar in bars), Decimal(0))
        bought = sum((bar["taker_buy_volume"] for bar in bars), Decimal(0))
        returns = [later["close"].ln() - earlier["close"].ln() for earlier, later in pairwise(bars)]
        high, low = max(bar["high"] for bar in bars), min(bar["low"] for bar in bars)
        return {
            "open": bars[0]["open"],
            "high": high,
            "low": low,
            "close": bars[-1]["close"],
            "total_volume": volume,
            "total_quote_volume": quote_volume,
            "price_range": high - low,
            "trades": sum(bar["trades"] for bar in bars),
            "vwap": (quote_volume / volume).quantize(Decimal("1e-8"), ROUND_HALF_UP),
            "taker_buy_ratio": (bought / volume).quantize(Decimal("1e-8"), ROUND_HALF_UP),
            "realised_volatility": sum((step * step for step in returns), Decimal(0)).sqrt(),
            "minutes_with_trades": len(bars),
            "trades_dropped": sum(bar["trades_dropped"] for bar in bars),
        }
