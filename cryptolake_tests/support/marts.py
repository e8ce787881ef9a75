"""Put bars and daily rows into the lake, and build the marts with Dagster or dbt."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import keys_of, publish
from cryptolake_assets.lake.filters import gold_month
from cryptolake_assets.marts_definitions import build_definitions
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import EXCHANGES, Family
from cryptolake_assets.model.windows import DAY
from cryptolake_assets.platform.dbt import EXECUTABLE
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.reference import Trade, reference_bars, reference_daily

FIRST = datetime(2024, 9, 1, tzinfo=UTC)
SECOND = FIRST + DAY
SYMBOLS = {"AAAUSDT": Decimal("64250.5"), "BBBUSDT": Decimal("0.00001234")}
MINUTES = {"5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}
PARTITIONED = [*(f"ohlcv_{name}" for name in MINUTES), "daily_returns", "volume_profile_hourly"]
Bars = dict[tuple[str, str, datetime], dict[str, Any]]

EVIDENCE = ("ids", "barrier", "klines")
"""Kinds of evidence, strongest first."""


def bars_of(trades: Iterable[Trade], incomplete: Iterable[datetime] = ()) -> Bars:
    """Return Silver's bars of the trades; the evidence differs by hour, and the given minutes are incomplete."""
    missing = set(incomplete)
    return {
        (exchange, symbol, start): {
            **bar,
            "is_complete": start not in missing,
            "evidence": None if start in missing else EVIDENCE[start.hour % len(EVIDENCE)],
        }
        for (exchange, symbol, start), bar in reference_bars(trades).items()
    }


def put_gold(settings: Settings, bars: Bars, complete: Iterable[date] = ()) -> None:
    """Publish Gold's rows for the days of the bars."""
    rows = [
        {
            **stats,
            "realised_volatility": float(stats["realised_volatility"]),
            "exchange": exchange,
            "symbol": symbol,
            "trade_date": day,
            "is_complete": day in set(complete),
            "updated_at": None,
        }
        for (exchange, symbol, day), stats in reference_daily(bars).items()
    ]
    for family, of_family in by_family(rows).items():
        tables = FAMILY_TABLES[family]
        candidate = pa.Table.from_pylist(of_family, schema=tables.daily.arrow_schema())
        publish(
            load_table(settings, tables.daily),
            tables.daily,
            gold_month(FIRST.date()),
            candidate,
            keys_of(tables.daily, candidate),
            {},
        )


def by_family(rows: Iterable[dict[str, Any]]) -> dict[Family, list[dict[str, Any]]]:
    """Return the rows by their market family."""
    found: dict[Family, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[EXCHANGES[row["exchange"]].family].append(row)
    return found


def run_marts(
    instance: dg.DagsterInstance, first: datetime, last: datetime, names: Iterable[str] = PARTITIONED
) -> dg.ExecuteInProcessResult:
    """Run partitioned marts once over the days."""
    job = build_definitions().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(["marts", name]) for name in names],
        tags={
            "dagster/asset_partition_range_start": first.date().isoformat(),
            "dagster/asset_partition_range_end": last.date().isoformat(),
        },
        raise_on_error=False,
    )


def dbt(*arguments: str, day: datetime, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run dbt over one day, as a user does."""
    window = json.dumps({"window_start": str(day.date()), "window_end": str((day + DAY).date()), **variables})
    return subprocess.run(
        [str(EXECUTABLE), "--no-use-colors", *arguments, "--vars", window], capture_output=True, text=True
    )


def every_check_passed(names: Iterable[str]) -> dict[str, dict[str, bool]]:
    """Return the verdicts of a run of these marts in which each of their dbt tests passed."""
    found: dict[str, dict[str, bool]] = {name: {} for name in names}
    for key in build_definitions().get_repository_def().asset_graph.asset_check_keys:
        if key.asset_key.path[-1] in found:
            found[key.asset_key.path[-1]][key.name] = True
    assert all(found.values()), "a mart has no test"
    return found
