"""Whether all contestants made the same bars: every one, to the last digit."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

Bar = tuple[Any, ...]

_E8, _E16 = 8, 16


def read_bars(path: Path) -> list[Bar]:
    """The bars of a file (or of Spark's directory) as whole numbers, in order: symbol, minute in ms, open, high, low,
    close, volume in 1e-8, quote volume in 1e-16, trades, volume bought by takers in 1e-8."""
    import pyarrow.parquet as pq

    return sorted(
        (
            row["symbol"],
            row["minute"],
            *(_whole(row[name], _E8) for name in ("o", "h", "l", "c", "volume")),
            _whole(row["qvol"], _E16),
            row["trades"],
            _whole(row["taker_buy"], _E8),
        )
        for row in pq.read_table(path).to_pylist()
    )


def _whole(value: int | str | Decimal, scale: int) -> int:
    """A whole number is scaled already; one with decimals (also as text) is brought to units of 10^-scale."""
    if isinstance(value, str) and "." in value:
        value = Decimal(value)
    if isinstance(value, Decimal) and int(value.as_tuple().exponent) < 0:
        sign, digits, exponent = value.as_tuple()
        power: int = 10 ** (scale + int(exponent))
        return (-1 if sign else 1) * int("".join(map(str, digits))) * power
    return int(value)


def compare(paths: list[Path]) -> tuple[int, int, list[str]]:
    """Bars and trades of the first file, and what differs in the others, in words; no words when all are equal."""
    reference = read_bars(paths[0])
    differences = []
    for path in paths[1:]:
        bars = read_bars(path)
        unequal = sum(one != other for one, other in zip(bars, reference, strict=False))
        if unequal or len(bars) != len(reference):
            differences.append(f"{path.name}: {len(bars)} bars, {unequal} differ from {paths[0].name}")
    return len(reference), sum(bar[8] for bar in reference), differences
