"""Batch sources as assets: responses in Bronze, typed rows in Silver, and a sensor with hourly requests.

A thin adapter of `ingest.batch_extract`: a factory for the entries of `ingest.batch_sources`.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pydantic

from cryptolake_assets.defs import asset_keys, audited
from cryptolake_assets.defs.audited import Audited, AuditedTable
from cryptolake_assets.defs.automation import VERSION_TAG, once_an_hour, with_upstream
from cryptolake_assets.defs.described import code_version, table_asset, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.jobs import run_tags
from cryptolake_assets.defs.partitions import DAY_FORMAT
from cryptolake_assets.defs.resources import LakeResource
from cryptolake_assets.ingest.batch_source import BatchSource
from cryptolake_assets.ingest.batch_sources import BATCH_SOURCES
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.quality.batch_checks import BATCH_RULES, ROWS_REJECTED, blocking

if TYPE_CHECKING:
    from cryptolake_assets.ingest.batch_extract import Extraction
    from cryptolake_assets.lake.commit import Publication

TIMEOUT = timedelta(minutes=30)
SENSOR_INTERVAL_S = 60


class BatchConfig(dg.Config):
    """Extent of the request."""

    full_history: bool = pydantic.Field(
        default=False, description="Request the full history again, not only rows after the newest stored one."
    )


def _raw(graph: Graph, source: BatchSource) -> dg.AssetsDefinition:
    def responses(context: dg.AssetExecutionContext, config: BatchConfig, lake: LakeResource) -> dg.MaterializeResult:
        from cryptolake_assets.ingest.batch_extract import extract, request_scope

        settings, day = lake.settings, date.fromisoformat(context.partition_key)
        scope = request_scope(settings, source, day, full_history=config.full_history)
        return _extracted(context, source, extract(settings, source, scope, context.run.run_id))

    return table_asset(
        source.raw,
        graph.partitions.daily,
        cadence="hour",
        kinds={"rest", "iceberg"},
        freshness_policy=_fresh(source),
        automation_condition=once_an_hour() if source.is_available(graph.settings) else None,
        description=f"Responses of {source.title}, byte for byte; rejected responses with the reason.",
    )(responses)


def _silver(graph: Graph, source: BatchSource, spec: TableSpec) -> dg.AssetsDefinition:
    audited_table = AuditedTable(spec, blocking(spec), (*source.warning_checks, ROWS_REJECTED))

    def rows(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[audited.Event]:
        from cryptolake_assets.ingest.batch_extract import commit, prepare, published_warnings

        settings, day = lake.settings, date.fromisoformat(context.partition_key)
        candidate = prepare(settings, source, spec, day)
        found = Audited(context.partition_key, candidate.outcomes)
        if candidate.passed:
            publication = commit(settings, candidate, context.run.run_id)
            _report_other_days(context, spec, publication, day)
            found = replace(
                found,
                observations=published_warnings(settings, source, candidate, day),
                metadata={
                    "dagster/row_count": candidate.rows.num_rows,
                    **table_metadata(spec),
                    "snapshot_id": str(publication.snapshot_id),
                    "rows_changed": publication.rows_changed,
                },
                version=_version(publication, spec, day),
            )
        yield from audited.events(context, audited_table, [found])

    return table_asset(
        spec,
        graph.partitions.daily,
        cadence="hour",
        kinds={"duckdb", "iceberg"},
        deps=[asset_keys.of_table(source.raw)],
        code_version=code_version(spec, *BATCH_RULES[spec.name].values()),
        metadata={"dagster/column_lineage": _lineage(spec, source.raw)},
        freshness_policy=_fresh(source),
        automation_condition=with_upstream() if source.is_available(graph.settings) else None,
        check_specs=audited_table.check_specs(graph.partitions.daily),
        description=f"{spec.doc} From accepted responses, by write-audit-publish; upserted by one commit.",
    )(rows)


def _fresh(source: BatchSource) -> dg.FreshnessPolicy:
    """Return the freshness policy of a source. It does not fail for assets that were never materialized because their
    source cannot be reached with these settings."""
    return dg.FreshnessPolicy.time_window(warn_window=source.fresh_within, fail_window=2 * source.fresh_within)


def _lineage(spec: TableSpec, raw: TableSpec) -> dg.TableColumnLineage:
    """Return the column lineage: all columns come from the response bodies, the hour from the request time."""
    source = asset_keys.of_table(raw)
    source_columns = {name: "asked_at" if name == "snapshot_hour" else "body" for name in spec.column_names}
    source_columns.pop("updated_at")
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(asset_key=source, column_name=column)] for name, column in source_columns.items()}
    )


def _extracted(context: dg.AssetExecutionContext, source: BatchSource, done: "Extraction") -> dg.MaterializeResult:
    """Return the result of a run. Raises `dagster.Failure` for a rejected response, which Bronze stores with its
    reason; Silver stays unchanged."""
    metadata: dict[str, Any] = {
        "dagster/row_count": done.responses,
        **table_metadata(source.raw),
        "snapshot_id": str(done.snapshot_id),
        "bytes": done.size_bytes,
        "rows_accepted": done.rows,
        "responses_rejected": len(done.rejected),
        "rows_rejected": len(done.rejected_rows),
    }
    if done.skipped:
        metadata["skipped_responses"] = "; ".join(f"{url}: {reason}" for url, reason in done.skipped)
    if done.rejected:
        reasons = "; ".join(f"{url}: {reason}" for url, reason in done.rejected)
        key = asset_keys.of_table(source.raw)
        context.log_event(
            dg.AssetObservation(key, partition=context.partition_key, description=reasons, metadata=metadata)
        )
        raise dg.Failure(
            f"{source.name}: a response was rejected and stored in {source.raw.full_name}; Silver stays unchanged. "
            f"{reasons}. The sensor requests it again within the hour.",
            allow_retries=False,
        )
    return dg.MaterializeResult(metadata=metadata)


def _report_other_days(
    context: dg.AssetExecutionContext, spec: TableSpec, publication: "Publication", day: date
) -> None:
    """Report the changed rows of other days than the run's, so that assets downstream of those days run too."""
    changed = {_day_of(value) for value in publication.changed_keys.column(spec.time_column).to_pylist()}
    for other in sorted(changed - {day}):
        key = other.strftime(DAY_FORMAT)
        if context.assets_def.partitions_def.has_partition_key(key):
            tags = {VERSION_TAG: _version(publication, spec, other)}
            metadata = {"changed_by_run_of": context.partition_key}
            context.log_event(
                dg.AssetMaterialization(asset_keys.of_table(spec), partition=key, metadata=metadata, tags=tags)
            )


def _day_of(value: date) -> date:
    return value.date() if isinstance(value, datetime) else value


def _version(publication: "Publication", spec: TableSpec, day: date) -> str:
    """Return the data version of a day's rows."""
    import pyarrow as pa

    column = spec.time_column
    if pa.types.is_date(publication.stamps.schema.field(column).type):
        return publication.version(column, day, day + timedelta(days=1))
    start = datetime.combine(day, time(), UTC)
    return publication.version(column, start, start + timedelta(days=1))


def _sources(graph: Graph) -> list[BatchSource]:
    """Return the sources of the families in use, and those of no family."""
    settings = graph.settings
    return [one for one in BATCH_SOURCES if one.settings_of(settings).venue.family in settings.families]


def selection(graph: Graph) -> dg.AssetSelection:
    """Return the selection of all sources' assets."""
    tables = [table for source in _sources(graph) for table in (source.raw, *source.silver)]
    return dg.AssetSelection.assets(*map(asset_keys.of_table, tables))


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of every source of the families in use, and a sensor for each source that these settings can
    reach."""
    of_source = {source: [_raw(graph, source)] for source in _sources(graph)}
    for source, assets in of_source.items():
        assets += [_silver(graph, source, spec) for spec in source.silver]
    sensors = [
        # One sensor per source: each run has the assets of one source, so a slow source delays no other.
        dg.AutomationConditionSensorDefinition(
            f"{source.name}_automation",
            target=dg.AssetSelection.assets(*(asset.key for asset in assets)),
            minimum_interval_seconds=SENSOR_INTERVAL_S,
            default_status=dg.DefaultSensorStatus.RUNNING,
            run_tags=run_tags("bronze", TIMEOUT),
            description=f"Requests {source.title} once an hour for the current day.",
        )
        for source, assets in of_source.items()
        if source.is_available(graph.settings)
    ]
    return dg.Definitions(assets=[asset for assets in of_source.values() for asset in assets], sensors=sensors)
