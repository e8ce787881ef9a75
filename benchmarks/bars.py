"""Compare the bars of all contestants, exactly and completely."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

Bar = tuple[Any, ...]

_E8, _E16 = 8, 16


def read_bars(path: Path) -> list[Bar]:
    """Return the sorted bars of a file (or of Spark's directory) as integers.

    Fields: symbol, minute in ms; open, high, low, close, volume in 1e-8; quote volume in 1e-16; trades; taker buy
    volume in 1e-8.
    """
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
    """Return a number in units of 10^-scale; integers are scaled already, decimals (also as text) are not."""
    if isinstance(value, str) and "." in value:
        value = Decimal(value)
    if isinstance(value, Decimal) and int(value.as_tuple().exponent) < 0:
        sign, digits, exponent = value.as_tuple()
        power: int = 10 ** (scale + int(exponent))
        return (-1 if sign else 1) * int("".join(map(str, digits))) * power
    return int(value)


def compare(paths: list[Path]) -> tuple[int, int, list[str]]:
    """Return the numbers of bars and trades in the first file, and a text per file that differs from it."""
    reference = read_bars(paths[0])
    differences = []
    for path in paths[1:]:
        bars = read_bars(path)
        unequal = sum(one != other for one, other in zip(bars, reference, strict=False))
        if unequal or len(bars) != len(reference):
            differences.append(f"{path.name}: {len(bars)} bars, {unequal} differ from {paths[0].name}")
    return len(reference), sum(bar[8] for bar in reference), differences
