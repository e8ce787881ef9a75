"""Table maintenance: an asset, a job and a schedule per task, and a check of the number of small files. Thin
adapters of `lake.maintenance`."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import dagster as dg

from cryptolake_assets.defs.described import OWNERS
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.instance.pools import MAINTENANCE_POOL
from cryptolake_assets.defs.resources import LakeResource
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.lake.maintenance.tasks import Report, Task, maintain

GROUP = "maintenance"
MAX_RUNTIME_S = 1_800
GRACE = timedelta(minutes=10)  # for a run's duration and its wait in the queue
# Spark may be restarting: retry after about 15, 30 and 60 s.
RETRY = dg.RetryPolicy(max_retries=3, delay=15, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)

DESCRIPTIONS = {
    Task.COMPACTION: (
        "Compaction: rewrites small files. Each closed hour of Bronze becomes one sorted file, and so do the "
        "partitions of other append-only tables. No row changes, and followers do not process the files as new data."
    ),
    Task.MANIFESTS: "Merges the manifests of many commits into few, so that scan planning stays fast.",
    Task.SNAPSHOTS: (
        "Expiry: removes snapshots that were replaced longer ago than the retention, and the files that only they "
        "reference. Keeps the snapshots that the Bronze stream resumes from."
    ),
    Task.ORPHANS: "Deletes orphan files: not referenced by a snapshot and too old to belong to a running commit.",
}

# UTC. Every five seconds the Bronze stream commits a file, a manifest and a snapshot. Manifests and snapshots slow down
# every commit and every scan, so they are reduced every 15 minutes.
CRON = {
    Task.COMPACTION: "12 * * * *",
    Task.MANIFESTS: "5-59/15 * * * *",
    Task.SNAPSHOTS: "9-59/15 * * * *",
    Task.ORPHANS: "40 3 * * *",
}


# Time between two runs by `CRON`: freshness warns if one is missing, and fails if three are.
EVERY = {
    Task.COMPACTION: timedelta(hours=1),
    Task.MANIFESTS: timedelta(minutes=15),
    Task.SNAPSHOTS: timedelta(minutes=15),
    Task.ORPHANS: timedelta(days=1),
}


def key_of(task: Task) -> dg.AssetKey:
    return dg.AssetKey([GROUP, task.value])


def _asset(task: Task) -> dg.AssetsDefinition:
    @dg.asset(
        key=key_of(task),
        group_name=GROUP,
        kinds={"iceberg", "python" if task in (Task.SNAPSHOTS, Task.MANIFESTS) else "spark"},
        owners=OWNERS,
        tags={"layer": GROUP, "cadence": "day" if task is Task.ORPHANS else "hour"},
        code_version="1",
        description=DESCRIPTIONS[task],
        pool=MAINTENANCE_POOL,
        freshness_policy=dg.FreshnessPolicy.time_window(
            warn_window=2 * EVERY[task] + GRACE, fail_window=4 * EVERY[task] + GRACE
        ),
        retry_policy=RETRY,
    )
    def maintain_all_tables(lake: LakeResource) -> dg.MaterializeResult:
        from cryptolake_assets.transform.maintenance_inputs import stream_position

        try:
            report = maintain(lake.settings, task, stream_position(lake.settings))
        except CryptolakeError as error:
            raise dg.Failure(str(error)) from error
        return dg.MaterializeResult(metadata=_metadata(report))

    return maintain_all_tables


def _metadata(report: Report) -> dict[str, Any]:
    """Return totals and changed tables as numbers, and all tables as Markdown."""
    figures = report.totals() | {"tables_changed": len(report.changed)}
    for change in report.changed:
        for figure in ("files", "disk_files", "disk_bytes", "manifests", "snapshots"):
            for when, state in (("before", change.before), ("after", change.after)):
                if (value := getattr(state, figure)) is not None:
                    figures[f"{change.before.table}/{figure}_{when}"] = value
    return {
        **{name: dg.MetadataValue.int(value) for name, value in figures.items()},
        "tables": dg.MetadataValue.md(as_markdown(report)),
    }


def as_markdown(report: Report) -> str:
    """Return a Markdown table, a line per table."""
    titles = [
        "table",
        "done",
        "files",
        "bytes",
        "small files",
        "manifests",
        "snapshots",
        "files on disk",
        "bytes on disk",
    ]
    names = ("files", "size_bytes", "small_files", "manifests", "snapshots", "disk_files", "disk_bytes")
    lines = [_line(titles), _line(["---", "---", *("---:" for _ in names)])]
    lines += [
        _line([change.before.table, change.done or "nothing was due", *map(change.shown, names)])
        for change in report.tables
    ]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


ASSETS = [_asset(task) for task in Task]


@dg.asset_check(
    asset=key_of(Task.COMPACTION),
    name="small_files",
    blocking=False,
    description=(
        "Every table has at most CRYPTOLAKE_SMALL_FILE_LIMIT small files: files below CRYPTOLAKE_SMALL_FILE_BYTES "
        "whose partition has another such file, so that compaction can join them. Warns only."
    ),
)
def small_files(lake: LakeResource) -> dg.AssetCheckResult:
    from cryptolake_assets.lake.maintenance.crowded import small_files as count

    limit = lake.settings.small_file_limit
    numbers = count(lake.settings)
    too_many = [table for table, number in numbers.items() if number > limit]
    lines = [_line(["table", "small files"]), _line(["---", "---:"])]
    lines += [_line([table, f"{number:,}"]) for table, number in numbers.items()]
    return dg.AssetCheckResult(
        passed=not too_many,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"more than {limit:,} small files in {', '.join(too_many)}. Check the runs of maintenance_compaction."
            if too_many
            else None
        ),
        metadata={
            "limit": dg.MetadataValue.int(limit),
            "small_files": dg.MetadataValue.int(sum(numbers.values())),
            "max_per_table": dg.MetadataValue.int(max(numbers.values())),
            "tables": dg.MetadataValue.md("\n".join(lines)),
        },
    )


def _job(task: Task) -> Any:
    """Return the job of a maintenance task. The small-files check runs after compaction, and after expiry too, so
    that a failing compaction does not suppress it."""
    selection = dg.AssetSelection.assets(key_of(task)).without_checks()
    if task in (Task.COMPACTION, Task.SNAPSHOTS):
        selection = selection | dg.AssetSelection.checks(small_files)
    return dg.define_asset_job(
        f"maintenance_{task.value}",
        selection=selection,
        description=DESCRIPTIONS[task],
        tags={"cryptolake/maintenance": task.value, "dagster/max_runtime": str(MAX_RUNTIME_S)},
    )


JOBS = {task: _job(task) for task in Task}

SCHEDULES = [
    dg.ScheduleDefinition(
        name=f"maintenance_{task.value}_schedule",
        job=JOBS[task],
        cron_schedule=CRON[task],
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags={"cryptolake/maintenance": task.value},
        description=DESCRIPTIONS[task],
    )
    for task in Task
]


def definitions(_: Graph) -> dg.Definitions:
    """Return the assets, jobs and schedules of all maintenance tasks, and the check of small files."""
    return dg.Definitions(assets=ASSETS, asset_checks=[small_files], jobs=list(JOBS.values()), schedules=SCHEDULES)
