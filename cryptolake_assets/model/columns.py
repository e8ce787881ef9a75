"""Table columns and the column types of the lake. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

PRICE = "decimal(18, 8)"
QUANTITY = "decimal(28, 8)"  # one trade or order; coins priced below 10^-6 trade in quantities of 11 or more digits
VOLUME = "decimal(38, 8)"
QUOTE_VOLUME = "decimal(38, 16)"
COIN_PRICE = "decimal(38, 26)"  # any coin in US dollars: from 10^-26 to below 10^12
PERCENTAGE = "decimal(38, 20)"
FUNDING_RATE = "decimal(18, 12)"  # fraction per funding; the exchange sends eight decimals
LEVELS = f"list<struct<price: {PRICE}, qty: {QUANTITY}>>"  # one side of an order book
TIME = "timestamptz"  # Iceberg's timestamp with zone: UTC, microseconds


_DECIMAL = re.compile(r"decimal\((\d+), (\d+)\)")


def decimal_digits(kind: str) -> tuple[int, int] | None:
    """Return the digits before and after the decimal point; None if the type is not decimal."""
    match = _DECIMAL.fullmatch(kind)
    if match is None:
        return None
    precision, scale = map(int, match.groups())
    return precision - scale, scale


def decimal_pattern(kind: str) -> str:
    """Return a regex for the numbers that a decimal type holds exactly. Raises `ValueError` for another type."""
    digits = decimal_digits(kind)
    if digits is None:
        raise ValueError(f"{kind} is not a decimal type")
    integer_digits, scale = digits
    return rf"-?[0-9]{{1,{integer_digits}}}(?:\.[0-9]{{1,{scale}}})?"


# Patterns of price and quantity of `LEVELS`: not negative.
LEVEL_PATTERNS = tuple(decimal_pattern(kind).removeprefix("-?") for kind in (PRICE, QUANTITY))

# Units. Where the exchange is binance_futures_coin, base quantities and volumes are in contracts.
FRACTION = "fraction"
LOG_RETURN = "log return"
USD = "USD"
COINS = "coins"
UNITS = {
    PRICE: "quote currency per base unit",
    QUANTITY: "base currency",
    VOLUME: "base currency",
    QUOTE_VOLUME: "quote currency",
    COIN_PRICE: USD,
    PERCENTAGE: "%",
    FUNDING_RATE: FRACTION,
    TIME: "UTC, µs",
    "date": "UTC day",
}


@dataclass(frozen=True)
class Column:
    """One column: name, Iceberg type, description, and its unit unless the type implies it (`UNITS`)."""

    name: str
    type: str
    doc: str
    own_unit: str | None = field(default=None, kw_only=True)

    @property
    def unit(self) -> str:
        """Return the unit; empty for text, ids, counts and flags."""
        return UNITS.get(self.type, "") if self.own_unit is None else self.own_unit


EXCHANGE = Column("exchange", "string", "exchange and market, such as binance_futures")
SYMBOL = Column("symbol", "string", "the exchange's symbol, such as BTCUSDT")
UPDATED_AT_DOC = "time of the row's last change; excluded from row comparisons"
UPDATED_AT = Column("updated_at", TIME, UPDATED_AT_DOC)
