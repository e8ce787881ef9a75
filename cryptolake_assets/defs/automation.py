"""When assets that follow others run by themselves: after an update, gated, and not too often while a day is open."""

from datetime import timedelta

import dagster as dg

from cryptolake_assets.defs.partitions import GraphPartitions
from cryptolake_assets.settings import Settings, Source

VERSION_TAG = "dagster/data_version"
"""Dagster's tag of a materialization's data version, where an event is made by hand."""

UPSTREAM_UPDATED = dg.AutomationCondition.any_deps_updated().replace(
    "newly_updated", dg.AutomationCondition.data_version_changed()
)
"""Rows of something upstream have changed. A run that looks at an hour and publishes nothing materializes it, so that
it stays fresh, with the data version that it had."""

UNREAD_UPDATES = UPSTREAM_UPDATED.since(dg.AutomationCondition.newly_requested() & ~UPSTREAM_UPDATED)
"""Something was published after the last request.

Not `since_last_handled()`: what is published between two ticks, while a run reads what was before, would be forgotten
with that run. Only a request after the publication clears it.
"""

UPSTREAM_HELD_BACK = dg.AutomationCondition.any_deps_match(
    dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
)


def in_open_window(partitions: GraphPartitions) -> dg.AutomationCondition:
    """The partition that is not over; none once the partitions have ended, where the latest one is over too."""
    latest = dg.AutomationCondition.in_latest_time_window()
    return latest & ~latest if partitions.have_ended else latest


def once_an_hour() -> dg.AutomationCondition:
    """The open partition is requested when it begins, and then at the start of each hour of this machine's clock."""
    due = dg.AutomationCondition.missing().newly_true() | dg.AutomationCondition.cron_tick_passed("0 * * * *")
    unanswered = due.since(dg.AutomationCondition.newly_requested())
    is_open = dg.AutomationCondition.in_latest_time_window()
    return (is_open & unanswered & ~dg.AutomationCondition.in_progress()).with_label("once_an_hour")


def with_upstream() -> dg.AutomationCondition:
    """A partition runs in the run of what it reads, or after it where that was run alone."""
    updated = dg.AutomationCondition.any_deps_updated().since(dg.AutomationCondition.newly_requested())
    return (updated & ~dg.AutomationCondition.in_progress()).with_label("with_upstream")


def freshness_of_followers(settings: Settings) -> dg.FreshnessPolicy:
    """Return the policy of assets that run when what they read changes: a listed symbol is traded every day, and a
    replay comes to its end."""
    if settings.source is Source.REPLAY:
        return dg.FreshnessPolicy.time_window(warn_window=timedelta(days=365), fail_window=timedelta(days=3650))
    return dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))


def follows_upstream(interval_min: int, label: str, partitions: GraphPartitions) -> dg.AutomationCondition:
    """A partition runs once something upstream of it was updated, and waits while a blocking check of any of its
    upstream partitions has failed, or while it runs already.

    The open partition runs at most once in each `interval_min` minutes of the clock (a divisor of 60); closed ones at
    once, because only a late trade or a backfill touches them.
    """
    slot_began = dg.AutomationCondition.cron_tick_passed(f"*/{interval_min} * * * *")
    had_its_slot = in_open_window(partitions) & dg.AutomationCondition.newly_requested().since(slot_began)
    return (UNREAD_UPDATES & ~UPSTREAM_HELD_BACK & ~dg.AutomationCondition.in_progress() & ~had_its_slot).with_label(
        label
    )
