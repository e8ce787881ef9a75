"""Dagster definitions of the main code location, assembled from its modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from cryptolake_assets.defs import (
    alerts,
    archive,
    batch,
    books,
    bronze,
    event_log,
    gold,
    health,
    jobs,
    klines,
    maintenance,
    silver,
    stream_minutes,
)
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.resources import resources_of
from cryptolake_assets.settings import Settings, get_settings

AUTOMATION_INTERVAL_S = 15  # conditions have minute granularity; an evaluation without requests takes 0.25 s

# Modules of the graph's assets, jobs, schedules and sensors, each with `definitions`.
MODULES = (
    bronze,
    archive,
    silver,
    klines,
    gold,
    batch,
    stream_minutes,
    books,
    maintenance,
    event_log,
    jobs,
    health,
    alerts,
)


def build_definitions(settings: Settings | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the graph of these settings, by default those of the process.

    `resources` override the default resources by name.
    """
    settings = settings or get_settings()
    graph = Graph.of(settings)
    automation = dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all() - batch.selection(graph),
        minimum_interval_seconds=AUTOMATION_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    return dg.Definitions.merge(
        *(module.definitions(graph) for module in MODULES),
        dg.Definitions(
            sensors=[automation],
            resources={**resources_of(settings), **(resources or {})},
            # A run has one short step: a separate process would only add seconds.
            executor=dg.in_process_executor,
        ),
    )


defs = build_definitions()
