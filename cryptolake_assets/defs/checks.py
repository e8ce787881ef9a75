"""Dagster asset checks of candidates: specs for an asset, results for a run."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.quality.bar_checks import MEANINGS
from cryptolake_assets.quality.candidate_checks import CheckOutcome


@contextmanager
def preview_accepted() -> Iterator[None]:
    """Silence Dagster's preview warning: with partitioned checks a failed hour blocks its day (docs/decisions)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


def specs(
    asset: dg.AssetKey, names: Iterable[str], partitions: dg.PartitionsDefinition, *, blocking: bool = True
) -> list[dg.AssetCheckSpec]:
    """Return a check spec per name, partitioned like the asset, so that a failed hour blocks only its own day."""
    with preview_accepted():
        return [
            dg.AssetCheckSpec(
                name, asset=asset, description=MEANINGS[name], blocking=blocking, partitions_def=partitions
            )
            for name in names
        ]


def results(
    asset: dg.AssetKey,
    names: Iterable[str],
    outcomes: Iterable[CheckOutcome],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> Iterator[dg.AssetCheckResult]:
    """Yield a result for every name, for a run of one partition."""
    for arguments in _arguments(asset, names, outcomes, severity):
        yield dg.AssetCheckResult(**arguments)


def evaluations(
    asset: dg.AssetKey,
    names: Iterable[str],
    outcomes: Iterable[CheckOutcome],
    partition: str | None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    *,
    blocking: bool = True,
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield an evaluation for every name, with its partition.

    Needed where Dagster cannot infer the partition: in a run of many partitions, and outside runs. `partition` is None
    for a check without partitions. Only an evaluation of severity ERROR blocks.
    """
    blocking = blocking and severity is dg.AssetCheckSeverity.ERROR
    for arguments in _arguments(asset, names, outcomes, severity):
        yield dg.AssetCheckEvaluation(**arguments, blocking=blocking, partition=partition)


def planned(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
) -> Mapping[dg.AssetCheckKey, Sequence[str | None]]:
    """Return the checks that the run plans, each with the partitions for which Dagster waits for an evaluation.

    Dagster (1.13) plans a check without partitions for each partition of a partitioned run; a plain result completes
    none of them, and they would stay planned forever.
    """
    found: dict[dg.AssetCheckKey, list[str | None]] = defaultdict(list)
    of_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    for record in context.instance.get_records_for_run(context.run.run_id, of_type=of_type).records:
        if (event := record.event_log_entry.dagster_event) is not None:
            plan = event.asset_check_planned_data
            subset = plan.partitions_subset
            found[plan.asset_check_key] += [None] if subset is None else list(subset.get_partition_keys())
    return found


def of_partitions(
    result: dg.AssetCheckResult, plan: Mapping[dg.AssetCheckKey, Sequence[str | None]], *, blocking: bool = False
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield evaluations of a check without partitions for each partition of the plan (see `planned`)."""
    if result.asset_key is None or result.check_name is None:
        return
    for partition in plan.get(dg.AssetCheckKey(result.asset_key, result.check_name), ()):
        if partition is not None:
            yield dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
                blocking=blocking,
                partition=partition,
            )


def _arguments(
    asset: dg.AssetKey, names: Iterable[str], outcomes: Iterable[CheckOutcome], severity: dg.AssetCheckSeverity
) -> Iterator[dict[str, Any]]:
    """Yield the arguments of a result or evaluation for every name; a check without an outcome passes."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    for name in names:
        outcome = by_name.get(name, CheckOutcome(name, True, "no rows to check"))
        yield {
            "asset_key": asset,
            "check_name": name,
            "passed": outcome.passed,
            "severity": severity,
            "description": outcome.description,
            "metadata": {
                "failing_rows": dg.MetadataValue.int(outcome.failing_count),
                "sample": dg.MetadataValue.md(_as_table(outcome)),
                **{name: dg.MetadataValue.int(count) for name, count in outcome.counts.items()},
            },
        }


def _as_table(outcome: CheckOutcome) -> str:
    """Return the failing rows as a Markdown table."""
    if not outcome.failing_rows:
        return "none"
    names = list(outcome.failing_rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(str(row[name]) for name in names) for row in outcome.failing_rows]
    return "\n".join(lines)


def candidate_rejected(
    table: TableSpec,
    partitions: Iterable[str],
    outcomes: Iterable[CheckOutcome],
    metadata: Mapping[str, Any] | None = None,
) -> dg.Failure:
    """Return the failure of a run whose candidate failed a blocking check; a retry would not help."""
    failed = dict.fromkeys(outcome.name for outcome in outcomes if not outcome.passed)
    return dg.Failure(
        f"{'.'.join(table.identifier)}: the candidate of {', '.join(partitions)} was rejected; the published rows "
        f"stay. Failed checks: {', '.join(failed)}. See the samples of the failed checks, fix the data or the rule, "
        "and materialize again.",
        metadata=metadata,
        allow_retries=False,
    )
