"""Assembles the graph; nothing else."""

from __future__ import annotations

import dagster as dg

from cryptolake_assets.defs import coingecko, fear_greed, futures_rest, maintenance, market_streams
from cryptolake_assets.defs.alerts import run_failures, run_recoveries
from cryptolake_assets.defs.archive import futures_trades_archive
from cryptolake_assets.defs.bronze import futures_trades
from cryptolake_assets.defs.event_log import dagster_event_log, event_log_retention, event_log_retention_daily
from cryptolake_assets.defs.follower import bronze_follower
from cryptolake_assets.defs.gold import futures_daily_stats
from cryptolake_assets.defs.health import restart_bronze_stream, stream_health, stream_health_now
from cryptolake_assets.defs.jobs import CHECKS, JOBS, SCHEDULES
from cryptolake_assets.defs.klines import futures_klines_1m
from cryptolake_assets.defs.resources import EngineResource, LakeResource, StreamResource
from cryptolake_assets.defs.silver import futures_ohlcv_1m

AUTOMATION_INTERVAL_S = 15
"""Conditions speak of minutes; an evaluation that asks for nothing costs a quarter of a second."""


def build_definitions() -> dg.Definitions:
    """A fresh `Definitions`, so that tests can take one with other resources."""
    return dg.Definitions(
        assets=[
            futures_trades,
            futures_trades_archive,
            futures_ohlcv_1m,
            futures_klines_1m,
            futures_daily_stats,
            fear_greed.fear_greed_raw,
            fear_greed.fear_greed_daily,
            *coingecko.ASSETS,
            *futures_rest.ASSETS,
            *market_streams.ASSETS,
            *maintenance.ASSETS,
            dagster_event_log,
        ],
        asset_checks=[*CHECKS, stream_health_now, maintenance.small_files],
        jobs=[
            *JOBS,
            fear_greed.fear_greed,
            coingecko.coingecko,
            *futures_rest.JOBS,
            restart_bronze_stream,
            *maintenance.JOBS.values(),
            event_log_retention,
        ],
        schedules=[
            *SCHEDULES,
            fear_greed.fear_greed_schedule,
            coingecko.coingecko_schedule,
            *futures_rest.SCHEDULES,
            *maintenance.SCHEDULES,
            event_log_retention_daily,
        ],
        sensors=[
            bronze_follower,
            market_streams.market_follower,
            stream_health,
            run_failures,
            run_recoveries,
            dg.AutomationConditionSensorDefinition(
                "automation",
                target=dg.AssetSelection.all(),
                minimum_interval_seconds=AUTOMATION_INTERVAL_S,
                default_status=dg.DefaultSensorStatus.RUNNING,
            ),
        ],
        resources={"lake": LakeResource(), "engine": EngineResource(), "stream": StreamResource()},
        # A run is one short step: a process a step would only add seconds.
        executor=dg.in_process_executor,
    )


defs = build_definitions()
