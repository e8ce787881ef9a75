"""The mart `sentiment_vs_market` on the real Spark server, run by Dagster, compared with its sources."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.commit import keys_of, publish
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_FEAR_GREED
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import trade
from cryptolake_tests.support.checks import verdicts
from cryptolake_tests.support.marts import (
    FIRST,
    SECOND,
    SYMBOLS,
    Bars,
    bars_of,
    dbt,
    every_check_passed,
    put_gold,
    run_marts,
)

MART = "sentiment_vs_market"
CAP = Decimal("2621040321355.0405123456789012")
DOMINANCE = Decimal("57.95393325662650000001")


def put(settings: Settings, spec: TableSpec, rows: list[dict[str, Any]]) -> None:
    from pyiceberg.expressions import AlwaysTrue

    table = pa.Table.from_pylist([{**row, "updated_at": None} for row in rows], schema=spec.arrow_schema())
    publish(load_table(settings, spec), spec, AlwaysTrue(), table, keys_of(spec, table), {})


def day(moment: datetime, value: int, classification: str = "Greed") -> dict[str, Any]:
    return {"index_date": moment.date(), "value": value, "classification": classification}


def market(hour: datetime, **values: Any) -> dict[str, Any]:
    numbers = {"total_market_cap": Decimal(1), "btc_dominance": Decimal(1), **values}
    return {"snapshot_hour": hour, **numbers}


def rows_of(settings: Settings) -> dict[tuple[str, date], dict[str, Any]]:
    rows = get_catalog(settings).load_table(("marts", MART)).scan().to_arrow().to_pylist()
    # Other tests put Spot's rows of the same symbols on this platform.
    rows = [row for row in rows if row["symbol"] in SYMBOLS and row["exchange"] == "binance_futures"]
    found = {(row["symbol"], row["trade_date"]): row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def test_mart_joins_index_and_market_to_their_day_exactly(settings: Settings, instance: dg.DagsterInstance) -> None:
    trades = [
        {**trade(start + timedelta(minutes=minute), 100 * number + minute, "64250.5", "0.1"), "symbol": symbol}
        for number, start in enumerate((FIRST, SECOND))
        for symbol in SYMBOLS
        for minute in range(3)
    ]
    put_gold(settings, bars_of(trades), complete=[FIRST.date()])
    put(settings, SILVER_FEAR_GREED, [day(FIRST, 74), day(SECOND + timedelta(days=1), 12)])
    hours = [market(SECOND + timedelta(hours=hour)) for hour in (0, 22)]
    latest = market(SECOND + timedelta(hours=23), total_market_cap=CAP, btc_dominance=DOMINANCE)
    put(settings, SILVER_COINGECKO_GLOBAL, [latest, *hours, market(FIRST - timedelta(hours=1))])

    first = run_marts(instance, FIRST, SECOND, [MART])
    assert first.success
    results = verdicts(first)
    assert results == every_check_passed([MART])
    assert results[MART].keys() >= {"as_much_as_gold_sentiment_vs_market_", "sentiment_is_of_its_day"}

    gold = {
        (row["symbol"], row["trade_date"]): row
        for row in run_sql(settings, "SELECT * FROM cryptolake.gold.futures_daily_stats").to_pylist()
    }
    found = rows_of(settings)
    assert set(found) == {(symbol, start.date()) for symbol in SYMBOLS for start in (FIRST, SECOND)}
    for key, row in found.items():
        for name in ("close", "vwap", "total_volume", "total_quote_volume", "realised_volatility", "is_complete"):
            assert row[name] == gold[key][name], (key, name)
        on_first = key[1] == FIRST.date()
        assert (row["fear_greed"], row["fear_greed_classification"]) == ((74, "Greed") if on_first else (None, None))
        assert (row["total_market_cap"], row["btc_dominance"]) == ((None, None) if on_first else (CAP, DOMINANCE))

    # The index of the second day arrives late: only that day's rows change; another run changes nothing.
    put(settings, SILVER_FEAR_GREED, [day(SECOND, 40, "Fear")])
    assert run_marts(instance, SECOND, SECOND, [MART]).success
    after = rows_of(settings)
    for key, row in found.items():
        if key[1] == FIRST.date():
            assert after[key] == row
        else:
            assert (after[key]["fear_greed"], after[key]["close"]) == (40, row["close"])
    snapshot = get_catalog(settings).load_table(("marts", MART)).metadata.current_snapshot_id
    assert run_marts(instance, FIRST, SECOND, [MART]).success
    assert get_catalog(settings).load_table(("marts", MART)).metadata.current_snapshot_id == snapshot


def test_mart_that_differs_from_its_sources_fails_its_test(settings: Settings) -> None:
    start = datetime(2025, 7, 1, tzinfo=UTC)
    trades = [{**trade(start, 1, "100", "1"), "symbol": "AAAUSDT"}]
    candidate = bars_of(trades)
    put_gold_of(settings, candidate, start)
    put(settings, SILVER_FEAR_GREED, [day(start, 50)])
    built = dbt("run", "--select", MART, day=start)
    assert built.returncode == 0, built.stdout
    put(settings, SILVER_FEAR_GREED, [day(start, 51)])
    tested = dbt("test", "--select", f"{MART},test_type:data", day=start)
    assert tested.returncode == 1
    assert "FAIL 1 sentiment_is_of_its_day" in tested.stdout, tested.stdout


def put_gold_of(settings: Settings, bars: Bars, start: datetime) -> None:
    from cryptolake_assets.lake.filters import gold_month
    from cryptolake_assets.model.family_tables import FUTURES
    from cryptolake_tests.support.reference import reference_daily

    rows = [
        {**stats, "exchange": exchange, "symbol": symbol, "trade_date": of, "is_complete": True, "updated_at": None}
        | {"realised_volatility": float(stats["realised_volatility"])}
        for (exchange, symbol, of), stats in reference_daily(bars).items()
    ]
    table = pa.Table.from_pylist(rows, schema=FUTURES.daily.arrow_schema())
    month = gold_month(start.date())
    publish(
        load_table(settings, FUTURES.daily),
        FUTURES.daily,
        month,
        table,
        keys_of(FUTURES.daily, table),
        {},
    )
