"""The spans of the symbols equal those of all bars, after any commits, and a refresh unites changed files only."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from cryptolake_assets.api import symbol_index
from cryptolake_assets.api.symbol_index import Span, SymbolIndex
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import replace_files
from cryptolake_assets.lake.filters import silver_day
from cryptolake_assets.lake.maintenance import manifests
from cryptolake_assets.lake.maintenance.manifests import merge_manifests
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import DAY, MINUTE
from cryptolake_assets.settings import Settings

START = datetime(2024, 7, 1, tzinfo=UTC)


def bars(day: datetime, numbers: dict[str, range]) -> pa.Table:
    """Return bars of minutes of the day by symbol."""
    empty = {**dict.fromkeys(FUTURES.bars.column_names), "exchange": "binance_futures"}
    rows = [
        {**empty, "symbol": symbol, "window_start": day + number * MINUTE}
        for symbol, minutes in numbers.items()
        for number in minutes
    ]
    return pa.Table.from_pylist(rows, FUTURES.bars.arrow_schema())


def replace_day(lake: Settings, day: datetime, rows: pa.Table) -> None:
    replace_files(load_table(lake, FUTURES.bars), silver_day(day), rows)


def expected(lake: Settings) -> dict[tuple[str, str], Span]:
    found: dict[tuple[str, str], list[datetime]] = {}
    for row in load_table(lake, FUTURES.bars).scan().to_arrow().to_pylist():
        found.setdefault((row["exchange"], row["symbol"]), []).append(row["window_start"])
    return {topic: Span(min(times), max(times), len(times)) for topic, times in found.items()}


@pytest.mark.parametrize("seed", range(2))
def test_spans_equal_those_of_all_bars(lake: Settings, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(symbol_index, "CHANGED_FILES", 2)
    monkeypatch.setattr(manifests, "MANIFESTS_ENOUGH", 3)
    chosen, index = random.Random(seed), SymbolIndex()  # noqa: S311 - reproducible data, no secret
    for number in range(16):
        day = START + max(0, number - chosen.choice([0, 0, 3])) * DAY
        symbols = chosen.sample(["A", "B", "C"], chosen.randrange(1, 4))
        replace_day(lake, day, bars(day, {symbol: range(chosen.randrange(1, 4)) for symbol in symbols}))
        if number % 5 == 4:
            merge_manifests(load_table(lake, FUTURES.bars))
        assert dict(index.spans_as_of(*current(lake))) == expected(lake)
    replace_day(lake, START, bars(START, {}))
    assert dict(index.spans_as_of(*current(lake))) == expected(lake)


def test_refresh_unites_the_changed_files_only(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    index = SymbolIndex()
    for number in range(12):
        replace_day(lake, START + number * DAY, bars(START + number * DAY, {"A": range(2)}))
        index.spans_as_of(*current(lake))
    united: list[int] = []
    original = symbol_index._joined

    def counted(parts: Any) -> Any:
        found = list(parts)
        united.append(len(found))
        return original(found)

    monkeypatch.setattr(symbol_index, "_joined", counted)
    newest = START + 11 * DAY
    for number in range(3, 6):
        replace_day(lake, newest, bars(newest, {"A": range(number)}))
        assert index.spans_as_of(*current(lake))["binance_futures", "A"].bars == 22 + number
    assert max(united) <= 12
    assert united[-1] < 10


def current(lake: Settings) -> tuple[Any, int | None]:
    table = load_table(lake, FUTURES.bars)
    return table, table.metadata.current_snapshot_id
