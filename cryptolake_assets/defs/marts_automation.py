"""Automation conditions of the marts.

A changing day runs at most once per quarter of an hour, and once more after the last update. A failed blocking check
upstream blocks a run; a failed run is retried. No published update is lost.
"""

import dagster as dg

from cryptolake_assets.defs.automation import UNREAD_UPDATES, UPSTREAM_CHECK_FAILED, UPSTREAM_UPDATED, in_open_window
from cryptolake_assets.defs.partitions import GraphPartitions

QUARTER_HOURS = "*/15 * * * *"
EVEN_MINUTES = "0-58/2 * * * *"
ODD_MINUTES = "1-59/2 * * * *"

Condition = dg.AutomationCondition


def _passed(cron: str) -> Condition:
    return Condition.cron_tick_passed(cron, "UTC")


PENDING = UNREAD_UPDATES.with_label("has_unread_updates")

A_QUARTER_HOUR_BEGAN = (
    _passed(QUARTER_HOURS).since(Condition.newly_requested()).with_label("a_quarter_hour_began_since_the_last_request")
)

# No update between an even minute and the odd one after it: true one to three minutes after the last update.
AT_REST = (
    (_passed(ODD_MINUTES) & ~UPSTREAM_UPDATED.since(_passed(EVEN_MINUTES)))
    .since(UPSTREAM_UPDATED | Condition.newly_requested())
    .with_label("nothing_published_for_a_minute")
)

CHECK_FAILED = UPSTREAM_CHECK_FAILED.with_label("a_blocking_check_failed")


def follows_its_day(partitions: GraphPartitions) -> Condition:
    """Return the condition of the marts of a day."""
    closed = (~in_open_window(partitions)).with_label("the_day_is_over")
    due = (PENDING & (A_QUARTER_HOUR_BEGAN | (closed & AT_REST))) | (
        Condition.execution_failed() & A_QUARTER_HOUR_BEGAN
    )
    return (due & ~CHECK_FAILED & ~Condition.in_progress()).with_label("follows_its_day")


# For the mart of the latest state. A failed check of an earlier hour does not block it: the mart reads published rows,
# which have passed their checks.
FOLLOWS_THE_MARKET = (
    (
        (PENDING & (A_QUARTER_HOUR_BEGAN | (Condition.missing() & AT_REST)))
        | (Condition.execution_failed() & A_QUARTER_HOUR_BEGAN)
    )
    & ~Condition.in_progress()
).with_label("follows_the_market")
