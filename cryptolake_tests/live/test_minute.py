"""A minute's running aggregates equal the rows of the DuckDB engine, in any order of arrival."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptolake_assets.lake.bronze_files import BronzeFile
from cryptolake_assets.live.minute import IdSet, StreamMinute, units_of
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import MINUTE_US, epoch_us, moment_of
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.quality.trade_rules import judge_of
from cryptolake_assets.transform.engines import duckdb_engine

START = datetime(2024, 12, 24, 10, tzinfo=UTC)
CONTEXT = RuleContext(
    exchanges=("binance_futures",),
    symbols=(("binance_futures", "BTCUSDT"),),
    earliest=START - timedelta(hours=1),
    latest=START + timedelta(minutes=2),
    quarantined=(("binance_futures", "BTCUSDT", "trade", 3),),
)


def decimals(highest: int) -> st.SearchStrategy[str]:
    """Texts of decimals with up to 8 places, among them 0 and negative ones."""
    units = st.one_of(
        st.sampled_from([0, 1, -1, highest]), st.integers(-highest, highest), st.integers(1, min(highest, 10**12))
    )
    return st.builds(lambda number, places: f"{Decimal(number).scaleb(-places):f}", units, st.integers(0, 8))


TRADES = st.builds(
    TradeEvent,
    symbol=st.sampled_from(["BTCUSDT", "BTCUSDT", "BTCUSDT", "NOPEUSDT"]),
    event_time=st.integers(-MINUTE_US, 3 * MINUTE_US).map(lambda shift: epoch_us(START) + shift),
    price=decimals(10**10 - 1),
    qty=decimals(10**12),
    side=st.sampled_from(["buy", "sell"]),
    trade_id=st.integers(0, 40),
    exchange=st.sampled_from(["binance_futures", "binance_futures", "binance_spot"]),
    ingest_ts=st.just(0),
    first_trade_id=st.integers(0, 10**12),
    last_trade_id=st.integers(0, 10**12),
    trade_type=st.sampled_from(["MARKET", "MARKET", "MARKET", "NA", "ADL"]),
    stream=st.sampled_from(["trade", "aggTrade"]),
)


def distinct(trades: list[TradeEvent]) -> list[TradeEvent]:
    """Keep one trade of each identity: copies are equal."""
    found: dict[tuple[str, ...], TradeEvent] = {}
    for trade in trades:
        found.setdefault((trade.exchange, trade.symbol, trade.stream, str(trade.trade_id)), trade)
    return list(found.values())


def rows_of(trades: list[TradeEvent]) -> dict[tuple[str, str, str, datetime], dict[str, Any]]:
    """Return the aggregates of the running minutes, as the engine names them."""
    minutes: dict[tuple[str, str, str, int], StreamMinute] = {}
    judge = judge_of(CONTEXT)
    for trade in trades:
        key = trade.exchange, trade.symbol, trade.stream, trade.event_time // MINUTE_US * MINUTE_US
        minutes.setdefault(key, StreamMinute()).add(trade, judge)
    rows = [minute.aggregates(*key) for key, minute in minutes.items() if not minute.is_empty]
    return {(row["exchange"], row["symbol"], row["stream"], row["window_start"]): row for row in rows}


def engine_rows(trades: list[TradeEvent]) -> dict[tuple[str, str, str, datetime], dict[str, Any]]:
    """Return the aggregates of the DuckDB engine over a file of these trades."""
    spec = FUTURES.trades
    records = [
        {
            **dict.fromkeys(spec.column_names),
            **{name: getattr(trade, name) for name in TradeEvent.__struct_fields__},
            "price": Decimal(trade.price),
            "qty": Decimal(trade.qty),
            "event_time": moment_of(trade.event_time),
            "ingest_ts": START,
        }
        for trade in trades
    ]
    begin, end = START - timedelta(minutes=2), START + timedelta(minutes=5)
    with TemporaryDirectory() as directory:
        path = f"{directory}/trades.parquet"
        pq.write_table(pa.Table.from_pylist(records, schema=spec.arrow_schema()), path)
        file = BronzeFile(path, START, len(trades), 1, begin, end, {})
        found = duckdb_engine._aggregate_files([file], begin, end, None, CONTEXT)
    rows = found.rows.to_pylist()
    return {(row["exchange"], row["symbol"], row["stream"], row["window_start"]): row for row in rows}


@settings(deadline=None, max_examples=60)
@given(trades=st.lists(TRADES, min_size=1, max_size=30).map(distinct), data=st.data())
def test_running_minutes_equal_the_engine_in_any_order(trades: list[TradeEvent], data: st.DataObject) -> None:
    arrived = data.draw(st.permutations([*trades, *trades[: len(trades) // 2]]))
    assert rows_of(arrived) == engine_rows(arrived)


@given(numbers=st.lists(st.integers(0, 30)))
def test_ids_are_kept_as_ranges(numbers: list[int]) -> None:
    ids, known = IdSet(), set[int]()
    for number in numbers:
        assert ids.add(number) == (number not in known)
        known.add(number)
        assert all((one in ids) == (one in known) for one in range(32))
    ranges = list(zip(ids.starts, ids.ends, strict=True))
    assert sum(last - first + 1 for first, last in ranges) == len(known)
    assert all(earlier[1] + 1 < later[0] for earlier, later in pairwise(ranges))


@given(number=st.decimals(-(10**20), 10**20, places=8), places=st.integers(0, 8))
def test_texts_in_units(number: Decimal, places: int) -> None:
    text = f"{number:.{places}f}"
    assert units_of(text) == int(Decimal(text).scaleb(8, Context(prec=60)))
