"""Quality rules, evaluated by DuckDB over trades that break each rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.quality.rules import (
    QUARANTINED_TRADES,
    RULES,
    RuleContext,
    broken_rule,
    judgeable,
    known_symbols,
    predicates,
    quarantined_table,
    rule_number,
    sound,
    sql_string,
)
from cryptolake_tests.support.zones import machine_zone

EARLIEST = datetime(2024, 7, 18, tzinfo=UTC)
LATEST = datetime(2024, 7, 19, 12, 30, 15, 250_000, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FUTURES, SPOT = "binance_futures", "binance_spot"
CONTEXT = RuleContext((FUTURES,), ((FUTURES, "BTCUSDT"), (FUTURES, "ETHUSDT")), EARLIEST, LATEST)

SCHEMA = pa.schema(
    {
        "exchange": pa.string(),
        "symbol": pa.string(),
        "stream": pa.string(),
        "trade_id": pa.int64(),
        "price": pa.decimal128(18, 8),
        "qty": pa.decimal128(28, 8),
        "event_time": pa.timestamp("us", tz="UTC"),
        "trade_type": pa.string(),
    }
)


@dataclass(frozen=True)
class Trade:
    """The columns that the rules read; by default a trade that breaks no rule."""

    exchange: str = "binance_futures"
    symbol: str = "BTCUSDT"
    stream: str = "trade"
    trade_id: int = 1
    price: Decimal = Decimal("1.5")
    qty: Decimal = Decimal("0.001")
    event_time: datetime = EARLIEST + timedelta(hours=1)
    trade_type: str = "MARKET"


def judged(context: RuleContext, *trades: Trade) -> list[str | None]:
    """Return the broken rule of each trade; assert that name, number and predicate agree."""
    rows = pa.Table.from_pylist([{"row": row, **asdict(trade)} for row, trade in enumerate(trades)], _NUMBERED)
    with open_duckdb() as duck:
        duck.register("trades", rows)
        if context.quarantined:
            duck.register(QUARANTINED_TRADES, quarantined_table(context))
        found = duck.sql(
            f"SELECT {broken_rule(context)}, {rule_number(context)}, {sound(context)} "
            f"FROM {judgeable(context, 'trades')} ORDER BY row"
        ).fetchall()
    for name, number, is_sound in found:
        assert number == (0 if name is None else RULES.index(name) + 1)
        assert is_sound == (name is None)
    return [name for name, _, _ in found]


_NUMBERED = SCHEMA.insert(0, pa.field("row", pa.int64()))


def test_predicates_are_in_the_order_of_rules() -> None:
    assert tuple(predicates(CONTEXT)) == RULES


def test_id_without_a_trade_breaks_no_rule() -> None:
    marker = Trade(price=Decimal(0), qty=Decimal(0), trade_type="NA")
    of_order_book, priced, sized = (
        replace(marker, trade_type="MARKET"),
        replace(marker, price=Decimal(1)),
        replace(marker, qty=Decimal(1)),
    )
    assert judged(CONTEXT, marker, of_order_book, priced, sized) == [
        None,
        "price_not_positive",
        "qty_zero",
        "price_not_positive",
    ]


def test_valid_trade_breaks_no_rule() -> None:
    assert judged(CONTEXT, Trade(), Trade(symbol="ETHUSDT", stream="aggTrade")) == [None, None]


@pytest.mark.parametrize(
    ("trade", "rule"),
    [
        (Trade(exchange="binance_spot"), "other_exchange"),
        (Trade(symbol="NOPEUSDT"), "unknown_symbol"),
        (Trade(symbol="btcusdt"), "unknown_symbol"),
        (Trade(symbol=""), "unknown_symbol"),
        (Trade(price=Decimal(0)), "price_not_positive"),
        (Trade(price=Decimal("-0.00000001")), "price_not_positive"),
        (Trade(qty=Decimal("-0.00000001")), "qty_negative"),
        (Trade(qty=Decimal(0)), "qty_zero"),
        (Trade(price=Decimal(10), qty=Decimal(10**14)), "quote_out_of_range"),
        (
            Trade(price=Decimal("9999999999.99999999"), qty=Decimal("99999999999999999999.99999999")),
            "quote_out_of_range",
        ),
        (Trade(event_time=EARLIEST - MICROSECOND), "event_time_out_of_range"),
        (Trade(event_time=LATEST + MICROSECOND), "event_time_out_of_range"),
    ],
)
def test_broken_rule_is_named(trade: Trade, rule: str) -> None:
    assert judged(CONTEXT, trade) == [rule]


def test_minimum_price_and_quantity_and_times_at_the_bounds_are_valid() -> None:
    smallest = Decimal("0.00000001")
    trades = Trade(price=smallest, qty=smallest), Trade(event_time=EARLIEST), Trade(event_time=LATEST)
    assert judged(CONTEXT, *trades) == [None, None, None]


def test_large_quantity_is_valid_if_its_quote_fits_a_bar() -> None:
    largest = Decimal("99999999999999999999.99999999")
    trades = Trade(price=Decimal("0.00000123"), qty=largest), Trade(price=Decimal(9), qty=Decimal(10**14))
    assert judged(CONTEXT, *trades) == [None, None]
    assert judged(CONTEXT, Trade(price=Decimal("9999999999.99999999"), qty=Decimal("99999.99999999"))) == [None]


def test_first_of_several_broken_rules_is_named() -> None:
    late = Trade(event_time=LATEST + MICROSECOND)
    large = replace(late, price=Decimal(10**9), qty=Decimal(10**19))
    empty = replace(late, qty=Decimal(0))
    negative = replace(late, qty=Decimal(-1))
    free = replace(negative, price=Decimal(0))
    unknown = replace(free, symbol="NOPEUSDT")
    foreign = replace(unknown, exchange="binance_spot")
    assert judged(CONTEXT, foreign, unknown, free, negative, empty, large, late) == list(RULES)


def test_every_listed_exchange_is_accepted() -> None:
    context = replace(CONTEXT, exchanges=(FUTURES, SPOT), symbols=((FUTURES, "BTCUSDT"), (SPOT, "BTCUSDT")))
    trades = Trade(), Trade(exchange=SPOT), Trade(exchange="other")
    assert judged(context, *trades) == [None, None, "other_exchange"]


def test_symbol_is_known_per_exchange() -> None:
    context = replace(CONTEXT, exchanges=(FUTURES, SPOT), symbols=((FUTURES, "BTCUSDT"), (SPOT, "ETHUSDT")))
    trades = Trade(), Trade(exchange=SPOT), Trade(symbol="ETHUSDT"), Trade(symbol="ETHUSDT", exchange=SPOT)
    assert judged(context, *trades) == [None, "unknown_symbol", "unknown_symbol", None]


def test_quarantined_trade_stays_out_of_range_after_the_clock_has_passed_it() -> None:
    context = replace(CONTEXT, exchanges=(FUTURES, SPOT), symbols=(*CONTEXT.symbols, (SPOT, "BTCUSDT")))
    context = replace(context, quarantined=((FUTURES, "BTCUSDT", "trade", 7), (FUTURES, "ETHUSDT", "aggTrade", 8)))
    quarantined = Trade(trade_id=7), Trade(symbol="ETHUSDT", stream="aggTrade", trade_id=8)
    others = (
        Trade(trade_id=8),
        Trade(trade_id=7, stream="aggTrade"),
        Trade(trade_id=7, symbol="ETHUSDT"),
        Trade(symbol="ETHUSDT", trade_id=8),
        Trade(exchange=SPOT, trade_id=7),
    )
    assert judged(context, *quarantined, *others) == ["event_time_out_of_range"] * 2 + [None] * 5


def test_earlier_rule_takes_precedence_for_a_quarantined_trade() -> None:
    context = replace(CONTEXT, quarantined=((FUTURES, "BTCUSDT", "trade", 7),))
    assert judged(context, Trade(trade_id=7, qty=Decimal(0))) == ["qty_zero"]


def test_symbol_with_quotes_is_matched_exactly() -> None:
    symbols = "O'NEIL", "'", "''", "') OR ('1' = '1"
    listed = tuple((FUTURES, symbol) for symbol in symbols)
    context = replace(CONTEXT, symbols=listed, quarantined=((FUTURES, "O'NEIL", "trade", 9),))
    assert judged(context, *(Trade(symbol=symbol) for symbol in symbols)) == [None] * 4
    assert judged(context, Trade(symbol="BTCUSDT"), Trade(symbol="ONEIL")) == ["unknown_symbol"] * 2
    assert judged(context, Trade(symbol="O'NEIL", trade_id=9)) == ["event_time_out_of_range"]


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"], exclude_characters="\\")))
@settings(max_examples=50)
def test_string_literal_keeps_every_character(text: str) -> None:
    with open_duckdb() as duck:
        assert duck.sql(f"SELECT {sql_string(text)}").fetchall() == [(text,)]


def test_text_with_a_backslash_is_rejected_as_literal() -> None:
    with pytest.raises(ValueError, match="only Spark treats a backslash"):
        sql_string("A\\B")


def test_every_symbol_is_unknown_if_none_is_listed() -> None:
    context = replace(CONTEXT, symbols=())
    assert judged(context, Trade(), Trade(symbol="XXXX"), Trade(symbol=" "), Trade(symbol="")) == ["unknown_symbol"] * 4


@pytest.mark.parametrize(
    ("earliest", "latest"),
    [
        (EARLIEST, LATEST),
        (EARLIEST.astimezone(timezone(timedelta(hours=-7))), LATEST.astimezone(timezone(timedelta(hours=5.5)))),
        (datetime(2024, 7, 18, 9), datetime(2024, 7, 19, 21, 30, 15, 250_000)),
    ],
    ids=["UTC", "other zones", "naive (the machine's zone)"],
)
def test_bounds_are_instants_in_any_zone(earliest: datetime, latest: datetime) -> None:
    trades = [Trade(event_time=time) for time in (EARLIEST - MICROSECOND, EARLIEST, LATEST, LATEST + MICROSECOND)]
    with machine_zone("Asia/Tokyo"):
        found = judged(replace(CONTEXT, earliest=earliest, latest=latest), *trades)
    assert found == ["event_time_out_of_range", None, None, "event_time_out_of_range"]


def test_known_symbols_are_sorted_without_duplicates_and_empty_text() -> None:
    found = known_symbols([(SPOT, "BTCUSDT"), (FUTURES, "ETHUSDT"), (FUTURES, "")], {(FUTURES, "ETHUSDT")})
    assert found == ((FUTURES, "ETHUSDT"), (SPOT, "BTCUSDT"))
    assert known_symbols() == ()


def expected_rule(context: RuleContext, trade: Trade) -> str | None:
    """Return the first rule that a trade breaks, computed in Python."""
    is_quarantined = (trade.exchange, trade.symbol, trade.stream, trade.trade_id) in context.quarantined
    broken = (
        trade.exchange not in context.exchanges,
        (trade.exchange, trade.symbol) not in context.symbols,
        trade.price <= 0,
        trade.qty < 0,
        trade.qty == 0,
        float(trade.price) * float(trade.qty) >= 1e15,
        not context.earliest <= trade.event_time <= context.latest or is_quarantined,
    )
    return next((rule for rule, is_broken in zip(RULES, broken, strict=True) if is_broken), None)


exchanges = st.sampled_from([FUTURES, SPOT])
symbols = st.sampled_from(["BTCUSDT", "ETHUSDT", "O'NEIL", "NOPEUSDT"])
streams = st.sampled_from(["trade", "aggTrade"])
ids = st.integers(1, 3)
amounts = st.sampled_from(
    [Decimal(-1), Decimal("-0.00000001"), Decimal(0), Decimal("0.00000001"), Decimal(1), Decimal(10**9)]
)
quantities = amounts | st.sampled_from([Decimal(10**5), Decimal(10**6), Decimal(10**6 - 1), Decimal(10**20 - 1)])
times = st.builds(
    lambda bound, step: bound + step * MICROSECOND, st.sampled_from([EARLIEST, LATEST]), st.integers(-1, 1)
)
trades_of_any_kind = st.builds(Trade, exchanges | st.just("other"), symbols, streams, ids, amounts, quantities, times)


@given(
    st.sets(exchanges, min_size=1),
    st.sets(st.tuples(exchanges, symbols), min_size=1),
    st.lists(st.tuples(exchanges, symbols, streams, ids), max_size=3),
    st.lists(trades_of_any_kind, min_size=1, max_size=20),
)
@settings(max_examples=40)
def test_sql_and_python_find_the_same_broken_rule(
    of_family: set[str],
    listed: set[tuple[str, str]],
    quarantined: list[tuple[str, str, str, int]],
    trades: list[Trade],
) -> None:
    context = replace(
        CONTEXT, exchanges=tuple(sorted(of_family)), symbols=tuple(sorted(listed)), quarantined=tuple(quarantined)
    )
    assert judged(context, *trades) == [expected_rule(context, trade) for trade in trades]
