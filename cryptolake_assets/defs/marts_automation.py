"""When the marts run: at most once a quarter of an hour for a day that goes on changing, once more when it has come to
rest, not while a blocking check of what they read fails, and again after a failure. Nothing published is forgotten."""

import dagster as dg

from cryptolake_assets.defs.automation import UNREAD_UPDATES, UPSTREAM_HELD_BACK, UPSTREAM_UPDATED, in_open_window
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

AT_REST = (
    (_passed(ODD_MINUTES) & ~UPSTREAM_UPDATED.since(_passed(EVEN_MINUTES)))
    .since(UPSTREAM_UPDATED | Condition.newly_requested())
    .with_label("nothing_published_for_a_minute")
)
"""No update between an even minute and the odd one after it: one to three minutes after the last one."""

HELD_BACK = UPSTREAM_HELD_BACK.with_label("a_blocking_check_failed")


def follows_its_day(partitions: GraphPartitions) -> Condition:
    """Return the condition of the marts of a day."""
    closed = (~in_open_window(partitions)).with_label("the_day_is_over")
    due = (PENDING & (A_QUARTER_HOUR_BEGAN | (closed & AT_REST))) | (
        Condition.execution_failed() & A_QUARTER_HOUR_BEGAN
    )
    return (due & ~HELD_BACK & ~Condition.in_progress()).with_label("follows_its_day")


FOLLOWS_THE_MARKET = (
    (
        (PENDING & (A_QUARTER_HOUR_BEGAN | (Condition.missing() & AT_REST)))
        | (Condition.execution_failed() & A_QUARTER_HOUR_BEGAN)
    )
    & ~Condition.in_progress()
).with_label("follows_the_market")
"""For what is always the latest. An hour that was held back anywhere in the past does not hold it: what it reads was
published, so it has passed its checks."""
