"""Assembles the marts' part of the graph, a code location of its own; nothing else.

The import of dagster-dbt alone takes longer than the whole of `cryptolake_assets.definitions`.
"""

from __future__ import annotations

import dagster as dg

from cryptolake_assets.defs.marts import dbt_resource, market_overview, marts_of_days
from cryptolake_assets.defs.resources import LakeResource

AUTOMATION_INTERVAL_S = 30
"""Conditions speak of minutes; an evaluation costs a third of a second."""


def build_definitions() -> dg.Definitions:
    """A fresh `Definitions`, so that tests can take one with other resources."""
    return dg.Definitions(
        assets=[marts_of_days, market_overview],
        sensors=[
            dg.AutomationConditionSensorDefinition(
                "marts_automation",
                target=dg.AssetSelection.all(),
                minimum_interval_seconds=AUTOMATION_INTERVAL_S,
                default_status=dg.DefaultSensorStatus.RUNNING,
            ),
        ],
        resources={"dbt": dbt_resource(), "lake": LakeResource()},
        executor=dg.in_process_executor,
    )


defs = build_definitions()
