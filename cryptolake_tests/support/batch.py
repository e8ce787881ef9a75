"""Batch sources in the graph: run a source on a lake and a replay exchange, read the stored rows."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.ingest.batch_sources import BATCH_SOURCES
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.exchanges import ExchangeThread

Lake = tuple[Settings, dg.DagsterInstance]


def keys_of(name: str) -> list[dg.AssetKey]:
    """Return the asset keys of the source with this name."""
    (source,) = [it for it in BATCH_SOURCES if it.name == name]
    return [asset_keys.of_table(table) for table in (source.raw, *source.silver)]


def run(
    lake: Lake, name: str, exchange: ExchangeThread, monkeypatch: pytest.MonkeyPatch, day: str, **config: Any
) -> dg.ExecuteInProcessResult:
    """Materialize the assets of the source with this name in one run."""
    monkeypatch.setenv("CRYPTOLAKE_EXCHANGE_REST_URL", exchange.url)
    get_settings.cache_clear()
    job = build_definitions().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=lake[1],
        asset_selection=keys_of(name),
        partition_key=day,
        raise_on_error=False,
        run_config=config or None,
    )


def stored_responses(lake: Lake, table: str = "fear_greed_raw") -> list[dict[str, Any]]:
    """Return the stored responses of a raw table, oldest first."""
    found: list[dict[str, Any]] = run_sql(
        lake[0], f"SELECT * FROM cryptolake.bronze.{table} ORDER BY fetched_at"
    ).to_pylist()
    return found


def check(result: Any, name: str) -> dg.AssetCheckEvaluation:
    (found,) = [it for it in result.get_asset_check_evaluations() if it.check_name == name]
    assert isinstance(found, dg.AssetCheckEvaluation)
    return found
