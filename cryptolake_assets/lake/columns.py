"""What a column of a table is, and the types that the lake uses. Pure."""

from __future__ import annotations

from dataclasses import dataclass

PRICE = "decimal(18, 8)"
VOLUME = "decimal(38, 8)"
QUOTE_VOLUME = "decimal(38, 16)"
COIN_PRICE = "decimal(38, 26)"
"""Of any coin in US dollars: from 10^-26 to below 10^12."""
PERCENTAGE = "decimal(38, 20)"
FUNDING_RATE = "decimal(18, 12)"
"""A share that is charged at once; the exchange says eight decimals."""
TIME = "timestamptz"
"""Iceberg's timestamp with zone: UTC, microseconds."""


@dataclass(frozen=True)
class Column:
    """One column: Iceberg type name and what it means."""

    name: str
    type: str
    doc: str
