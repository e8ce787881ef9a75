"""Dagster events of a write-audit-publish run, for every table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from cryptolake_assets.defs import asset_keys, checks
from cryptolake_assets.defs.automation import VERSION_TAG
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.quality.candidate_checks import CheckOutcome

Event = dg.MaterializeResult | dg.AssetCheckResult | dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output


@dataclass(frozen=True)
class AuditedTable:
    """A table, and the names of the checks that its runs evaluate."""

    table: TableSpec
    blocking: Sequence[str]
    warning: Sequence[str] = ()

    @property
    def key(self) -> dg.AssetKey:
        return asset_keys.of_table(self.table)

    def check_specs(self, partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
        """Return the specs of the checks."""
        return [
            *checks.specs(self.key, self.blocking, partitions),
            *checks.specs(self.key, self.warning, partitions, blocking=False),
        ]


@dataclass(frozen=True)
class Audited:
    """A partition's candidate: the check outcomes, and the data version of the published rows."""

    partition: str
    outcomes: Sequence[CheckOutcome]
    observations: Sequence[CheckOutcome] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: str | None = None  # None: the candidate was rejected, the published rows stay


def events(
    context: dg.AssetExecutionContext,
    audited_table: AuditedTable,
    partitions: Iterable[Audited],
    others: Callable[[], Iterable[dg.AssetCheckEvaluation]] = tuple,
) -> Iterator[Event]:
    """Yield the events of a run of one partition or of a range, partition by partition.

    `others` returns evaluations of checks with separate steps. Dagster skips these steps in a run of a range or of a
    rejected candidate, because the asset has no output. Raises `dagster.Failure` at the end if one was rejected.
    """
    rejected = []
    for audited in partitions:
        if context.has_partition_key:
            yield from _single_partition(audited_table, audited)
        else:
            yield from _partition_of_range(audited_table, audited)
        if audited.version is None:
            rejected.append(audited)
    if rejected or not context.has_partition_key:
        yield from others()
    if rejected:
        raise checks.candidate_rejected(
            audited_table.table,
            [audited.partition for audited in rejected],
            [outcome for audited in rejected for outcome in audited.outcomes],
            metadata=rejected[0].metadata if len(rejected) == 1 else None,
        )
    if not context.has_partition_key:
        # In addition to the evaluations per partition, Dagster waits for one output of each check.
        for spec in context.assets_def.check_specs:
            if spec.key in context.selected_asset_check_keys:
                yield dg.Output(None, output_name=spec.get_python_identifier())


def _single_partition(audited_table: AuditedTable, audited: Audited) -> Iterator[Event]:
    results = [
        *checks.results(audited_table.key, audited_table.blocking, audited.outcomes),
        *checks.results(audited_table.key, audited_table.warning, audited.observations, dg.AssetCheckSeverity.WARN),
    ]
    if audited.version is None:
        yield from results
    else:
        version = dg.DataVersion(audited.version)
        yield dg.MaterializeResult(metadata=audited.metadata, data_version=version, check_results=results)


def _partition_of_range(audited_table: AuditedTable, audited: Audited) -> Iterator[Event]:
    yield from checks.evaluations(audited_table.key, audited_table.blocking, audited.outcomes, audited.partition)
    yield from checks.evaluations(
        audited_table.key, audited_table.warning, audited.observations, audited.partition, dg.AssetCheckSeverity.WARN
    )
    if audited.version is not None:
        tags = {VERSION_TAG: audited.version}
        yield dg.AssetMaterialization(
            audited_table.key, partition=audited.partition, metadata=audited.metadata, tags=tags
        )
