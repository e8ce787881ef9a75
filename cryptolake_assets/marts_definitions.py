"""Dagster definitions of the marts' code location.

It is separate because importing dagster-dbt alone takes longer than all of `cryptolake_assets.definitions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from cryptolake_assets.defs import marts
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.resources import LakeResource
from cryptolake_assets.settings import Settings, get_settings

AUTOMATION_INTERVAL_S = 30  # conditions have minute granularity; an evaluation takes a third of a second


def build_definitions(settings: Settings | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the marts' graph of these settings, by default those of the process.

    `resources` override the default resources by name.
    """
    settings = settings or get_settings()
    automation = dg.AutomationConditionSensorDefinition(
        "marts_automation",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=AUTOMATION_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    defaults = {"dbt": marts.dbt_resource(), "lake": LakeResource(settings=settings)}
    return dg.Definitions.merge(
        marts.definitions(Graph.of(settings)),
        dg.Definitions(
            sensors=[automation], resources={**defaults, **(resources or {})}, executor=dg.in_process_executor
        ),
    )


defs = build_definitions()
