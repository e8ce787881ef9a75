"""Batch sources through the graph: run a job on a lake and a replay exchange, read back what it stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.exchanges import ExchangeThread

Lake = tuple[Settings, dg.DagsterInstance]


def run(
    lake: Lake, job: str, exchange: ExchangeThread, monkeypatch: pytest.MonkeyPatch, day: str, **config: Any
) -> dg.ExecuteInProcessResult:
    monkeypatch.setenv("CRYPTOLAKE_EXCHANGE_REST_URL", exchange.url)
    get_settings.cache_clear()
    return (
        build_definitions()
        .resolve_job_def(job)
        .execute_in_process(instance=lake[1], partition_key=day, raise_on_error=False, run_config=config or None)
    )


def answers(lake: Lake, table: str = "fear_greed_raw") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_sql(
        lake[0], f"SELECT * FROM cryptolake.bronze.{table} ORDER BY fetched_at"
    ).to_pylist()
    return found


def check(result: Any, name: str) -> dg.AssetCheckEvaluation:
    (found,) = [it for it in result.get_asset_check_evaluations() if it.check_name == name]
    assert isinstance(found, dg.AssetCheckEvaluation)
    return found


def asked(
    lake: Lake, schedule: str, now: datetime, monkeypatch: pytest.MonkeyPatch, **variables: Any
) -> list[str | None] | str | None:
    """Return the partitions that a tick of the schedule of this name asks for, or why it skipped."""
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    get_settings.cache_clear()
    definitions = build_definitions()
    with dg.build_schedule_context(
        instance=lake[1], scheduled_execution_time=now, repository_def=definitions.get_repository_def()
    ) as context:
        ticked = definitions.resolve_schedule_def(schedule).evaluate_tick(context)
    return [it.partition_key for it in ticked.run_requests or []] or ticked.skip_message
