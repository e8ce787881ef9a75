"""The marts on the real Spark server, run by Dagster, compared with plain Python."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from pyiceberg.types import StringType

from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.commit import keys_of, publish, read_window
from cryptolake_assets.lake.filters import between, silver_day
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.marts_definitions import build_definitions
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.windows import DAY
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import trade
from cryptolake_tests.support.checks import verdicts
from cryptolake_tests.support.marts import (
    EVIDENCE,
    FIRST,
    MINUTES,
    PARTITIONED,
    SECOND,
    SYMBOLS,
    Bars,
    bars_of,
    by_family,
    dbt,
    every_check_passed,
    put_gold,
    run_marts,
)
from cryptolake_tests.support.reference import Trade, open_time, reference_bars


def trades_of(day: datetime, seed: int) -> list[Trade]:
    """Return about 1,500 trades: in all minutes of two hours, then in random minutes; a symbol is on two markets."""
    chance = random.Random(seed)  # noqa: S311  not for secrets
    minutes = [*range(120), *sorted(chance.sample(range(120, 1440), 90))]
    made: list[Trade] = []
    of_futures = [("binance_futures", symbol, price) for symbol, price in SYMBOLS.items()]
    for exchange, symbol, price in [*of_futures, ("binance_spot", "AAAUSDT", Decimal("64100.25"))]:
        for minute in minutes:
            for _ in range(chance.randint(1, 4)):
                price = max(price * (1 + Decimal(chance.randint(-20, 20)) / 10_000), Decimal("0.00000100"))
                when = day + timedelta(minutes=minute, milliseconds=chance.randint(0, 59_999))
                quantity = Decimal(chance.randint(1, 10**9)).scaleb(-6)
                rounded = price.quantize(Decimal("1e-8"))
                made.append(
                    trade(
                        when, len(made) + seed * 100_000, str(rounded), str(quantity), symbol=symbol, exchange=exchange
                    )
                )
    return made


def put_silver(settings: Settings, day: datetime, bars: Bars) -> None:
    """Replace the day's bars of the test symbols."""
    rows = [
        {**bar, "exchange": exchange, "symbol": symbol, "window_start": start, "stream": "trade", "updated_at": None}
        for (exchange, symbol, start), bar in bars.items()
    ]
    of_family = by_family(rows)
    for family, tables in FAMILY_TABLES.items():
        candidate = pa.Table.from_pylist(of_family[family], schema=tables.bars.arrow_schema())
        table = load_table(settings, tables.bars)
        present = read_window(table, silver_day(day))
        present = present.filter(pa.compute.is_in(present["symbol"], pa.array(list(SYMBOLS))))
        publish(table, tables.bars, silver_day(day), candidate, keys_of(tables.bars, present, candidate), {})


def rows_of(settings: Settings, mart: str) -> list[dict[str, Any]]:
    """Return the mart's rows of the test symbols."""
    rows = get_catalog(settings).load_table(("marts", mart)).scan().to_arrow().to_pylist()
    return [row for row in rows if row["symbol"] in SYMBOLS]


def by_key(rows: Iterable[Mapping[str, Any]], *key: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the rows by key; the values are the other columns, without `updated_at`."""
    found = {
        tuple(row[name] for name in key): {n: v for n, v in row.items() if n not in (*key, "updated_at")}
        for row in rows
    }
    assert len(found) == len(list(rows))
    return found


def expected_bars(trades: list[Trade], minute_bars: Bars, minutes: int, complete_days: Iterable[date] = ()) -> Bars:
    """Return bars of `minutes`; a complete bar has the weakest evidence of its minutes."""
    members: dict[tuple[str, str, datetime], list[str | None]] = defaultdict(list)
    for (exchange, symbol, start), bar in minute_bars.items():
        members[exchange, symbol, open_time(start, minutes)].append(bar["evidence"])
    found = {}
    for key, bar in reference_bars(trades, minutes).items():
        is_known = len(members[key]) == minutes or key[2].date() in set(complete_days)
        is_complete = None not in members[key] and is_known
        weakest = max(members[key], key=EVIDENCE.index) if is_complete else None
        found[key] = {**bar, "is_complete": is_complete, "evidence": weakest}
    return found


def expected_profile(minute_bars: Bars) -> dict[tuple[Any, ...], dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for (exchange, symbol, start), bar in minute_bars.items():
        width = max(Decimal(10) ** (bar["vwap"].adjusted() - 2), Decimal("1e-8"))
        key = exchange, symbol, open_time(start, 60), bar["vwap"] // width * width
        row = found.setdefault(
            key,
            {"bucket_width": width, "volume": 0, "quote_volume": 0, "trades": 0, "minutes_with_trades": 0},
        )
        for name in ("volume", "quote_volume", "trades"):
            row[name] += bar[name]
        row["minutes_with_trades"] += 1
    return found


def check_returns(settings: Settings) -> None:
    days: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for tables in FAMILY_TABLES.values():
        for row in run_sql(settings, f"SELECT * FROM {tables.daily.full_name} ORDER BY trade_date").to_pylist():
            if row["symbol"] in SYMBOLS:
                days[row["exchange"], row["symbol"]].append(row)
    got = by_key(rows_of(settings, "daily_returns"), "exchange", "symbol", "trade_date")
    assert set(got) == {(*key, row["trade_date"]) for key, rows in days.items() for row in rows}
    for key, rows in days.items():
        highest = Decimal(0)
        previous: Decimal | None = None
        for row in rows:
            mart = got[*key, row["trade_date"]]
            highest = max(highest, row["close"])
            with localcontext() as context:
                context.prec = 60
                drawdown = ((highest - row["close"]) / highest).quantize(Decimal("1e-8"), ROUND_HALF_UP)
                log_return = float(row["close"].ln() - previous.ln()) if previous else None
            assert mart["previous_close"] == previous
            assert mart["log_return"] == (None if log_return is None else pytest.approx(log_return, rel=1e-12, abs=0))
            assert (mart["highest_close"], mart["drawdown"]) == (highest, drawdown)
            assert mart["realised_volatility"] == row["realised_volatility"]
            assert mart["is_complete"] == row["is_complete"]
            previous = row["close"]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def test_marts_equal_plain_python_and_a_correction_updates_only_its_rows(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    trades = {day: trades_of(day, seed) for seed, day in enumerate((FIRST, SECOND), start=1)}
    incomplete = [FIRST + timedelta(minutes=7)]
    silver = {day: bars_of(trades[day], incomplete) for day in trades}
    for day, bars in silver.items():
        put_silver(settings, day, bars)
    put_gold(settings, {**silver[FIRST], **silver[SECOND]}, complete=[FIRST.date()])

    first = run_marts(instance, FIRST, SECOND)
    assert first.success
    compare(settings, trades[FIRST] + trades[SECOND], {**silver[FIRST], **silver[SECOND]}, [FIRST.date()])
    assert verdicts(first) == every_check_passed(PARTITIONED)
    events = first.asset_materializations_for_node("marts")
    assert {(event.asset_key.path[1], event.partition) for event in events} == {
        (name, day.date().isoformat()) for name in PARTITIONED for day in (FIRST, SECOND)
    }
    assert [event for event in events if not {"snapshot_id", "dagster/row_count"} <= set(event.metadata)] == []
    before = {name: rows_of(settings, name) for name in PARTITIONED}

    # A late trade on the first day, and a removed bar (for example, its only trade was of another type).
    late_at = FIRST + timedelta(minutes=50, seconds=3)
    removed = max(start for _, symbol, start in silver[FIRST] if symbol == "BBBUSDT")
    late = trade(late_at, 1, "99999", "7", symbol="AAAUSDT")
    remaining = [
        item for item in trades[FIRST] if (item["symbol"], open_time(item["event_time"], 1)) != ("BBBUSDT", removed)
    ]
    corrected = bars_of([*remaining, late], incomplete)
    put_silver(settings, FIRST, corrected)
    put_gold(settings, {**corrected, **silver[SECOND]}, complete=[FIRST.date()])
    assert run_marts(instance, FIRST, FIRST).success
    compare(settings, [*remaining, late, *trades[SECOND]], {**corrected, **silver[SECOND]}, [FIRST.date()])

    for name, minutes in MINUTES.items():
        after = {
            (row["exchange"], row["symbol"], row["window_start"]): row for row in rows_of(settings, f"ohlcv_{name}")
        }
        touched = {
            ("binance_futures", "AAAUSDT", open_time(late_at, minutes)),
            ("binance_futures", "BBBUSDT", open_time(removed, minutes)),
        }
        for row in before[f"ohlcv_{name}"]:
            key = row["exchange"], row["symbol"], row["window_start"]
            if key in touched:
                assert key not in after or after[key]["updated_at"] > row["updated_at"]
            else:
                assert after[key] == row
    assert ("BBBUSDT", removed.replace(minute=removed.minute // 5 * 5)) in {
        (row["symbol"], row["window_start"]) for row in before["ohlcv_5m"]
    }

    again = ("ohlcv_5m", "daily_returns")
    snapshots = {name: snapshot_of(settings, name) for name in again}
    assert run_marts(instance, FIRST, FIRST, again).success
    assert {name: snapshot_of(settings, name) for name in again} == snapshots, "without changes there is no commit"
    for name in ("ohlcv_5m", "ohlcv_1h", "volume_profile_hourly"):
        files = [task.file for task in get_catalog(settings).load_table(("marts", name)).scan().plan_files()]
        assert len(files) == 2, f"{name}: one file per day"


def snapshot_of(settings: Settings, mart: str) -> int | None:
    snapshot = get_catalog(settings).load_table(("marts", mart)).current_snapshot()
    return snapshot.snapshot_id if snapshot else None


def compare(settings: Settings, trades: list[Trade], minute_bars: Bars, complete_days: list[date]) -> None:
    """Compare every mart of days with its reference."""
    for name, minutes in MINUTES.items():
        got = by_key(rows_of(settings, f"ohlcv_{name}"), "exchange", "symbol", "window_start")
        assert got == expected_bars(trades, minute_bars, minutes, complete_days), name
    profile = rows_of(settings, "volume_profile_hourly")
    got_profile = by_key(profile, "exchange", "symbol", "window_start", "bucket_low")
    assert got_profile == expected_profile(minute_bars)
    check_returns(settings)


def test_overview_covers_the_newest_day(settings: Settings, instance: dg.DagsterInstance) -> None:
    day = datetime(2025, 3, 2, tzinfo=UTC)
    earlier = [trade(day - timedelta(hours=3), 1, "100", symbol=symbol) for symbol in SYMBOLS]
    later = [trade(day + timedelta(hours=22, minutes=n), 2 + n, str(103 - n), "2") for n in range(3)]
    later = [{**item, "symbol": "AAAUSDT"} for item in later]
    on_spot = trade(day + timedelta(hours=21), 9, "99", "4", symbol="AAAUSDT", exchange="binance_spot")
    put_silver(settings, day - DAY, bars_of(earlier))
    put_silver(settings, day, bars_of([*later, on_spot]))
    job = build_definitions().resolve_implicit_global_asset_job_def()
    overview = dg.AssetKey(["marts", "market_overview"])
    assert job.execute_in_process(instance=instance, asset_selection=[overview], raise_on_error=False).success
    rows = get_catalog(settings).load_table(("marts", "market_overview")).scan().to_arrow().to_pylist()
    overview_of = by_key(rows, "exchange", "symbol")
    assert overview_of.keys() == {("binance_futures", "AAAUSDT"), ("binance_spot", "AAAUSDT")}
    of_spot = overview_of["binance_spot", "AAAUSDT"]
    assert (of_spot["last_price"], of_spot["price_24h_ago"], of_spot["trades_24h"]) == (Decimal(99), None, 1)
    assert overview_of["binance_futures", "AAAUSDT"] == {
        "latest_minute": day + timedelta(hours=22, minutes=2),
        "is_complete": True,
        "last_price": Decimal("101"),
        "price_24h_ago": Decimal("100"),
        "change_24h": Decimal("0.01"),
        "high_24h": Decimal("103"),
        "low_24h": Decimal("101"),
        "volume_24h": Decimal("6"),
        "quote_volume_24h": Decimal("612"),
        "trades_24h": 3,
    }


def test_dbt_tests_pass_and_name_wrong_rows(settings: Settings, instance: dg.DagsterInstance) -> None:
    day = datetime(2025, 5, 4, tzinfo=UTC)
    bars = bars_of([trade(day + timedelta(minutes=n), n, symbol="AAAUSDT") for n in range(10)])
    put_silver(settings, day, bars)
    built = dbt("build", "--select", "ohlcv_5m", "ohlcv_1h", "daily_returns", day=day)
    assert built.returncode == 0, built.stdout
    assert built.stdout.count("START unit_test") == 2

    table = get_catalog(settings).load_table(("marts", "ohlcv_5m"))
    rows = table.scan(row_filter=silver_day(day)).to_arrow()
    broken = pa.Table.from_pylist([{**rows.to_pylist()[0], "high": Decimal("1")}], schema=rows.schema)
    table.append(broken.cast(table.schema().as_arrow()))
    tested = dbt("test", "--select", "ohlcv_5m,test_type:data", day=day)
    assert tested.returncode == 1
    for name in ("unique_rows_ohlcv_5m", "sound_bars_ohlcv_5m", "as_much_as_silver_ohlcv_5m"):
        assert f"FAIL 1 {name}" in tested.stdout, tested.stdout


@pytest.mark.nightly
def test_mart_that_gained_its_exchange_later_is_merged_by_its_key(settings: Settings) -> None:
    """As after the migration of an earlier release, whose marts had no such column: it is the last one."""
    day, mart = datetime(2025, 7, 6, tzinfo=UTC), "ohlcv_5m"
    of_futures = [trade(day + timedelta(minutes=n), n + 1, symbol="AAAUSDT") for n in range(10)]
    put_silver(settings, day, bars_of(of_futures))
    assert dbt("run", "--select", mart, day=day).returncode == 0
    connect(settings).sql(f"ALTER TABLE cryptolake.marts.{mart} WRITE UNORDERED")  # an order keeps its columns
    table = get_catalog(settings).load_table(("marts", mart))
    stored = table.scan().to_arrow()
    with table.update_schema() as change:
        change.delete_column("exchange")
    with table.update_schema() as change:
        change.add_column("exchange", StringType())
    assert table.schema().column_names[-1] == "exchange"
    table.overwrite(stored.select(table.schema().column_names))

    before = snapshot_of(settings, mart)
    assert dbt("run", "--select", mart, day=day).returncode == 0
    assert snapshot_of(settings, mart) == before, "without changes there is no commit"
    on_spot = trade(day + timedelta(minutes=1), 1, "99", symbol="AAAUSDT", exchange="binance_spot")
    put_silver(settings, day, bars_of([*of_futures, on_spot]))
    built = dbt("build", "--select", mart, day=day)
    assert built.returncode == 0, built.stdout
    found = [row for row in rows_of(settings, mart) if row["window_start"].date() == day.date()]
    assert by_key(found, "exchange", "symbol", "window_start").keys() == {
        *(("binance_futures", "AAAUSDT", day + timedelta(minutes=minute)) for minute in (0, 5)),
        ("binance_spot", "AAAUSDT", day),
    }


@pytest.mark.nightly
def test_files_of_a_month_are_merged_above_the_limit(settings: Settings) -> None:
    days = [datetime(2025, 6, 10, tzinfo=UTC) + number * DAY for number in range(3)]
    mart = "ohlcv_4h"
    files, snapshots = [], []
    for number, day in enumerate(days):
        put_silver(
            settings,
            day,
            bars_of([trade(day + timedelta(hours=n), 100 * number + n, symbol="AAAUSDT") for n in (1, 9)]),
        )
        built = dbt("run", "--select", mart, day=day, most_files=2)
        assert built.returncode == 0, built.stdout
        table = get_catalog(settings).load_table(("marts", mart))
        month = between("window_start", days[0], days[-1] + DAY)
        files.append(len(list(table.scan(row_filter=month).plan_files())))
        snapshots.append(table.current_snapshot())
    assert files == [1, 2, 1], "the third file exceeds the limit"
    assert [snapshot.summary.operation.value for snapshot in snapshots if snapshot and snapshot.summary][
        -1
    ] == "replace"
    rows = [row for row in rows_of(settings, mart) if days[0] <= row["window_start"] < days[-1] + DAY]
    assert sorted(row["window_start"] for row in rows) == [
        day + timedelta(hours=hour) for day in days for hour in (0, 8)
    ]
    counted = run_sql(
        settings, f"SELECT count(*) AS bars FROM cryptolake.marts.{mart} WHERE window_start >= '2025-06-10'"
    )
    assert counted.to_pylist() == [{"bars": len(rows)}]
