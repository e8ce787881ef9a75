"""Alerts from Dagster's records of finished runs: failed steps, causes and checks, and whether an alert is due.

Whether an alert is due depends on earlier runs only, so ticks share no state: a partition that keeps failing is
reported at its first failure, then at intervals, and once when it succeeds again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

import dagster as dg

from cryptolake_assets.defs.partitions import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG
from cryptolake_assets.platform.graphql import RUN_URL
from cryptolake_assets.platform.notify import Alert, AlertKind, cause_line, kind_of_failure
from cryptolake_assets.settings import Settings

WILL_RETRY_TAG = "dagster/will_retry"
PAGE = 25
MAX_PAGES = 20  # bounds the search through runs of other assets with the same partition key


def failure_alert(settings: Settings, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Alert | None:
    """Return the alert for a failed run; None if no alert is due, or if Dagster retries the run itself."""
    if _is_retried(run):
        return None
    before = _Before(instance, run)
    remind = timedelta(hours=settings.alert_reminder_hours)
    kind = kind_of_failure(before.run_ended_at, before.last_failure_at, before.failing_since, remind)
    if kind is None:
        return None
    alert = _of_run(settings, before, kind)
    step, cause = failure_cause(instance, run)
    return replace(alert, step=step, cause=cause, failed_checks=tuple(_failed_checks(instance, run)))


def recovery_alert(settings: Settings, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Alert | None:
    """Return the alert for a run that succeeded right after a failure of the same partition; None otherwise."""
    before = _Before(instance, run)
    if before.last_failure_at is None:
        return None
    return _of_run(settings, before, AlertKind.RECOVERED)


def _of_run(settings: Settings, before: _Before, kind: AlertKind) -> Alert:
    run = before.run
    return Alert(
        kind=kind,
        job=run.job_name,
        assets=_assets(before.instance, run),
        partition=_partition(run),
        run_id=run.run_id,
        run_url=RUN_URL.format(address=settings.dagster_pages, run_id=run.run_id),
        at=before.run_ended_at,
        since=before.failing_since,
    )


@dataclass(frozen=True)
class _Before:
    """The runs before a run with the same assets and partition (or the same job, if it has no assets).

    Canceled runs, and failures that Dagster retried itself, are ignored.
    """

    instance: dg.DagsterInstance
    run: dg.DagsterRun

    @cached_property
    def run_ended_at(self) -> datetime:
        record = self.instance.get_run_record_by_id(self.run.run_id)
        return datetime.now(UTC) if record is None else _ended_at(record)

    @cached_property
    def last_failure_at(self) -> datetime | None:
        """The end of the preceding run if it failed; None if it succeeded or there is none."""
        failure = next(self._runs("FAILURE", self.run.run_id), None)
        if failure is None or (self._last_success and self._last_success.storage_id > failure.storage_id):
            return None
        return _ended_at(failure)

    @cached_property
    def failing_since(self) -> datetime | None:
        """The end of the first failure after the last success."""
        if self.last_failure_at is None:
            return None
        after = self._last_success.dagster_run.run_id if self._last_success else None
        first = next(self._runs("FAILURE", after, ascending=True), None)
        return self.last_failure_at if first is None else min(_ended_at(first), self.last_failure_at)

    @cached_property
    def _last_success(self) -> dg.RunRecord | None:
        return next(self._runs("SUCCESS", self.run.run_id), None)

    def _runs(self, status: str, cursor: str | None, *, ascending: bool = False) -> Iterator[dg.RunRecord]:
        """Yield runs of the same subject from the cursor on, newest first, or oldest first if `ascending`."""
        tags = {
            name: value
            for name in (PARTITION_TAG, RANGE_START_TAG, RANGE_END_TAG)
            if (value := self.run.tags.get(name))
        }
        job_name = None if self.run.asset_selection else self.run.job_name
        filters = dg.RunsFilter(job_name=job_name, statuses=[dg.DagsterRunStatus(status)], tags=tags)
        for _ in range(MAX_PAGES):
            page = self.instance.get_run_records(filters, limit=PAGE, ascending=ascending, cursor=cursor)
            for record in page:
                other = record.dagster_run
                if other.asset_selection == self.run.asset_selection and not _is_retried(other):
                    yield record
            if len(page) < PAGE:
                return
            cursor = page[-1].dagster_run.run_id


def _is_retried(run: dg.DagsterRun) -> bool:
    return run.tags.get(WILL_RETRY_TAG) == "true"


def _ended_at(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp


def _partition(run: dg.DagsterRun) -> str | None:
    if PARTITION_TAG in run.tags:
        return run.tags[PARTITION_TAG]
    bounds = [run.tags[name] for name in (RANGE_START_TAG, RANGE_END_TAG) if name in run.tags]
    return "...".join(bounds) or None


def _assets(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str, ...]:
    """Return the names of the assets that the run was to materialize."""
    keys = run.asset_selection
    if not keys:
        planned = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
        keys = frozenset(event.asset_key for event in _events(planned) if event.asset_key)
    return tuple(sorted(key.to_user_string() for key in keys))


def failure_cause(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str | None, str]:
    """Return the first failed step and the first line of its error; the step is None if the run failed outside one."""
    for event in _events(instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)):
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            return event.step_key, cause_line(data.user_failure_data.description)
        error = data.error
        while error is not None and error.cause is not None:
            error = error.cause
        return event.step_key, cause_line(error.message if error else event.message or "")
    for event in _events(instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)):
        error = event.job_failure_data.error
        return None, cause_line(error.message if error else event.message or "")
    return None, "Dagster recorded no cause"


def _failed_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[str]:
    """Yield the failed checks of severity ERROR."""
    for event in _events(instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)):
        evaluation = event.asset_check_evaluation_data
        if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
            suffix = f" [{evaluation.partition}]" if evaluation.partition and not _partition(run) else ""
            yield f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}{suffix}"


def _events(records: dg.EventLogConnection) -> Iterator[dg.DagsterEvent]:
    for record in records.records:
        if record.event_log_entry.dagster_event is not None:
            yield record.event_log_entry.dagster_event
