"""How the checks on a candidate appear in the graph: specs for an asset, results for a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import dagster as dg
from dagster._utils.warnings import PreviewWarning

from cryptolake_assets.transform.checks import MEANINGS, CheckOutcome


def specs(
    asset: dg.AssetKey, names: Iterable[str], partitions: dg.PartitionsDefinition, *, blocking: bool = True
) -> list[dg.AssetCheckSpec]:
    """One check spec a name, partitioned as its asset is: a failed hour holds back its own day only."""
    with warnings.catch_warnings():
        # Partitioned checks are in preview; without them one failed hour would not hold its day (docs/decisions).
        warnings.simplefilter("ignore", PreviewWarning)
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
    for outcome in _of_every_name(names, outcomes):
        yield dg.AssetCheckResult(
            asset_key=asset,
            check_name=outcome.name,
            passed=outcome.passed,
            severity=severity,
            description=outcome.description,
            metadata=_metadata(outcome),
        )


def evaluations(
    asset: dg.AssetKey,
    names: Iterable[str],
    outcomes: Iterable[CheckOutcome],
    partition: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The same for one partition of a run of many, where Dagster cannot tell of which one a result is."""
    for outcome in _of_every_name(names, outcomes):
        yield dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=outcome.name,
            passed=outcome.passed,
            severity=severity,
            description=outcome.description,
            metadata=_metadata(outcome),
            blocking=severity is dg.AssetCheckSeverity.ERROR,
            partition=partition,
        )


def _of_every_name(names: Iterable[str], outcomes: Iterable[CheckOutcome]) -> Iterator[CheckOutcome]:
    """A check that had nothing to look at passes and says so."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    return (by_name.get(name, CheckOutcome(name, True, "no rows were touched")) for name in names)


def _metadata(outcome: CheckOutcome) -> dict[str, dg.MetadataValue]:
    return {
        "failing_rows": dg.MetadataValue.int(outcome.failing_count),
        "sample": dg.MetadataValue.md(_as_table(outcome)),
    }


def _as_table(outcome: CheckOutcome) -> str:
    """The failing rows as a Markdown table."""
    if not outcome.failing_rows:
        return "none"
    names = list(outcome.failing_rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(str(row[name]) for name in names) for row in outcome.failing_rows]
    return "\n".join(lines)
