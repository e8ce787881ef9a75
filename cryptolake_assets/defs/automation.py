"""Automation conditions of downstream assets: after an upstream update, gated by checks, rate-limited while open."""

from datetime import timedelta

import dagster as dg

from cryptolake_assets.defs.partitions import GraphPartitions
from cryptolake_assets.settings import Settings, Source

VERSION_TAG = "dagster/data_version"  # Dagster's tag of the data version, for events that this code creates

# Upstream rows have changed. A run that changes no row of an hour still materializes it, to keep it fresh, but with the
# previous data version.
UPSTREAM_UPDATED = dg.AutomationCondition.any_deps_updated().replace(
    "newly_updated", dg.AutomationCondition.data_version_changed()
)

# Rows were published after the last request. `since_last_handled()` would lose rows that are published between two
# ticks while a run reads the earlier ones; here only a request after the publication clears the update.
UNREAD_UPDATES = UPSTREAM_UPDATED.since(dg.AutomationCondition.newly_requested() & ~UPSTREAM_UPDATED)

UPSTREAM_CHECK_FAILED = dg.AutomationCondition.any_deps_match(
    dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
)


def in_open_window(partitions: GraphPartitions) -> dg.AutomationCondition:
    """Return the condition for the open partition; it is never true once all partitions are in the past."""
    latest = dg.AutomationCondition.in_latest_time_window()
    return latest & ~latest if partitions.have_ended else latest


def once_an_hour() -> dg.AutomationCondition:
    """Request the open partition when it begins, then at the start of each hour of this machine's clock."""
    due = dg.AutomationCondition.missing().newly_true() | dg.AutomationCondition.cron_tick_passed("0 * * * *")
    is_unrequested = due.since(dg.AutomationCondition.newly_requested())
    is_open = dg.AutomationCondition.in_latest_time_window()
    return (is_open & is_unrequested & ~dg.AutomationCondition.in_progress()).with_label("once_an_hour")


def with_upstream() -> dg.AutomationCondition:
    """Request a partition in the run of its upstream, or after that run if the upstream was run alone."""
    updated = dg.AutomationCondition.any_deps_updated().since(dg.AutomationCondition.newly_requested())
    return (updated & ~dg.AutomationCondition.in_progress()).with_label("with_upstream")


def freshness_of_followers(settings: Settings) -> dg.FreshnessPolicy:
    """Return the freshness policy of assets that run when their upstream changes.

    A listed symbol is traded every day, but a replay ends.
    """
    if settings.source is Source.REPLAY:
        return dg.FreshnessPolicy.time_window(warn_window=timedelta(days=365), fail_window=timedelta(days=3650))
    return dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))


def follows_upstream(interval_min: int, label: str, partitions: GraphPartitions) -> dg.AutomationCondition:
    """Request a partition after an upstream update, unless it is running or a blocking check of an upstream partition
    has failed.

    The open partition runs at most once per `interval_min` minutes of the clock (a divisor of 60); closed ones run at
    once, because only late-arriving trades and backfills touch them.
    """
    slot_began = dg.AutomationCondition.cron_tick_passed(f"*/{interval_min} * * * *")
    ran_in_slot = in_open_window(partitions) & dg.AutomationCondition.newly_requested().since(slot_began)
    return (UNREAD_UPDATES & ~UPSTREAM_CHECK_FAILED & ~dg.AutomationCondition.in_progress() & ~ran_in_slot).with_label(
        label
    )
