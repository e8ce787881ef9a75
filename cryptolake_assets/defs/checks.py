"""How the checks on a candidate appear in the graph: specs for an asset, results for a run."""

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
    """Partitioned checks are in preview; without them one failed hour would not hold its day (docs/decisions)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


def specs(
    asset: dg.AssetKey, names: Iterable[str], partitions: dg.PartitionsDefinition, *, blocking: bool = True
) -> list[dg.AssetCheckSpec]:
    """One check spec a name, partitioned as its asset is: a failed hour holds back its own day only."""
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
    """A result for every name, for a run of one partition."""
    for said in _of_every_name(asset, names, outcomes, severity):
        yield dg.AssetCheckResult(**said)


def evaluations(
    asset: dg.AssetKey,
    names: Iterable[str],
    outcomes: Iterable[CheckOutcome],
    partition: str | None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    *,
    blocking: bool = True,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The same where Dagster cannot tell of which partition a result is: in a run of many, and outside of runs (None is
    for a check without partitions). Only an error blocks."""
    blocking = blocking and severity is dg.AssetCheckSeverity.ERROR
    for said in _of_every_name(asset, names, outcomes, severity):
        yield dg.AssetCheckEvaluation(**said, blocking=blocking, partition=partition)


def planned(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
) -> Mapping[dg.AssetCheckKey, Sequence[str | None]]:
    """Return the checks that the run plans, each with the partitions for which Dagster waits for an evaluation.

    Dagster (1.13) plans a check without partitions for each partition of a partitioned run; a plain result of it
    settles none of them, and they would stay planned for ever.
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
    """Evaluate a check without partitions for the partitions of the plan (see `planned`) too."""
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


def _of_every_name(
    asset: dg.AssetKey, names: Iterable[str], outcomes: Iterable[CheckOutcome], severity: dg.AssetCheckSeverity
) -> Iterator[dict[str, Any]]:
    """What a result or an evaluation says; a check that had nothing to look at passes and says so."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    for name in names:
        outcome = by_name.get(name, CheckOutcome(name, True, "no rows were touched"))
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
    """The failing rows as a Markdown table."""
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
    """Return what a run ends with when a candidate failed a blocking check; trying again would not help."""
    failed = dict.fromkeys(outcome.name for outcome in outcomes if not outcome.passed)
    return dg.Failure(
        f"{'.'.join(table.identifier)}: the candidate of {', '.join(partitions)} was rejected, the published rows "
        f"stay. Failed checks: {', '.join(failed)}. Look at the checks' samples, mend the data or the rule, and "
        "materialize again.",
        metadata=metadata,
        allow_retries=False,
    )
