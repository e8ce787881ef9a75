"""The marts: dbt models as assets, dbt tests as asset checks. A thin adapter of the project in `dbt_project/`.

A separate code location imports this module (`cryptolake_assets.marts_definitions`): importing dagster-dbt is slow.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtCliResource, DbtProject, dbt_assets

from cryptolake_assets.defs import asset_keys, checks
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS
from cryptolake_assets.defs.automation import freshness_of_followers
from cryptolake_assets.defs.described import OWNERS
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.instance.pools import MARTS_POOL
from cryptolake_assets.defs.marts_automation import FOLLOWS_THE_MARKET, follows_its_day
from cryptolake_assets.defs.partitions import DAY_FORMAT
from cryptolake_assets.defs.resources import LakeResource
from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_FEAR_GREED
from cryptolake_assets.model.table_spec import CATALOG
from cryptolake_assets.platform.dbt import EXECUTABLE, PROJECT_DIR, ensure_manifest
from cryptolake_assets.settings import Settings

OVERVIEW = "market_overview"

Sources = Mapping[str, Sequence[dg.AssetKey]]  # assets by the part before the dot of a column's `of`


class MartsTranslator(DagsterDbtTranslator):
    """Adds the graph's properties to the spec that dagster-dbt derives from a model's YAML."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        in_use = [FAMILY_KEYS[family] for family in graph.settings.families]
        self._sources = {
            "silver": [keys.bars for keys in in_use],
            "gold": [keys.daily for keys in in_use],
            **{spec.name: [asset_keys.of_table(spec)] for spec in (SILVER_FEAR_GREED, SILVER_COINGECKO_GLOBAL)},
        }
        # The tables of every family exist, but those of a family that is not tracked are assets of no location.
        self._not_in_use = {
            key for keys in FAMILY_KEYS.values() if keys not in in_use for key in (keys.bars, keys.daily)
        }
        self._freshness = freshness_of_followers(graph.settings)
        self._follows_its_day = follows_its_day(graph.partitions)

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = manifest["nodes"].get(unique_id)
        if node is None or node["config"]["materialized"] == "ephemeral":  # a source or a staging model: no dbt table
            return spec
        is_latest = node["name"] == OVERVIEW
        return spec.replace_attributes(
            deps=[dep for dep in spec.deps if dep.asset_key not in self._not_in_use],
            group_name=MARTS_NAMESPACE,
            owners=OWNERS,
            tags={**spec.tags, "layer": MARTS_NAMESPACE, "cadence": "quarter-hour"},
            kinds={"dbt", "spark", "iceberg"},
            code_version=definition_hash(manifest, node),
            freshness_policy=self._freshness,
            automation_condition=FOLLOWS_THE_MARKET if is_latest else self._follows_its_day,
            metadata={**spec.metadata, **table_metadata(node, self._sources)},
        )


def definition_hash(manifest: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return a hash of a model and of the project's macros."""
    macros = [macro["macro_sql"] for macro in manifest["macros"].values() if macro["package_name"] == "cryptolake"]
    return hashlib.sha256("".join([node["raw_code"], *sorted(macros)]).encode()).hexdigest()[:12]


def table_metadata(node: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """Return table name, columns by the model's contract, and their source columns as metadata."""
    key = node["config"]["unique_key"]
    columns = node["columns"].values()
    return {
        "dagster/table_name": f"{CATALOG}.{node['schema']}.{node['name']}",
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    column["name"],
                    column["data_type"],
                    description=column["description"],
                    constraints=dg.TableColumnConstraints(nullable=column["name"] not in key),
                )
                for column in columns
            ],
            constraints=dg.TableConstraints([f"unique ({', '.join(key)})"]),
        ),
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                column["name"]: [
                    source for name in column["config"]["meta"].get("of", ()) for source in _columns(name, sources)
                ]
                for column in columns
            }
        ),
    }


def _columns(source: str, sources: Sources) -> list[dg.TableColumnDep]:
    """Return a source column, such as `silver.close`, as a column of its assets."""
    layer, _, name = source.partition(".")
    return [dg.TableColumnDep(asset_key=key, column_name=name) for key in sources[layer]]


def dbt_resource() -> DbtCliResource:
    return DbtCliResource(project_dir=str(PROJECT_DIR), profiles_dir=str(PROJECT_DIR), dbt_executable=str(EXECUTABLE))


def marts_of_days(context: dg.AssetExecutionContext, dbt: DbtCliResource, lake: LakeResource) -> Iterator[Any]:
    """Run one dbt command for the run's day or range of days."""
    window = context.partition_time_window
    days = {"window_start": window.start.strftime(DAY_FORMAT), "window_end": window.end.strftime(DAY_FORMAT)}
    yield from build(context, dbt, lake.settings, days)


def market_overview(context: dg.AssetExecutionContext, dbt: DbtCliResource, lake: LakeResource) -> Iterator[Any]:
    yield from build(context, dbt, lake.settings, {})


def build(
    context: dg.AssetExecutionContext, dbt: DbtCliResource, settings: Settings, variables: Mapping[str, str]
) -> Iterator[Any]:
    """Run `dbt build` for the selected models and their tests; yield events with each table's rows and snapshot.

    Raises `SparkError` at once if the server is unreachable.
    """
    from cryptolake_assets.lake.spark_session import require_server

    require_server(settings)
    target = settings.home / "dbt" / "runs" / context.run.run_id
    arguments = ["build", "--exclude-resource-type", "unit_test", "--vars", json.dumps(variables)]
    planned = checks.planned(context)
    try:
        for event in dbt.cli(arguments, context=context, target_path=target).stream():
            yield _with_table_state(event, settings)
            if isinstance(event, dg.AssetCheckResult):
                yield from checks.of_partitions(event, planned)
    finally:
        # dbt's output is in the run's own log.
        shutil.rmtree(target, ignore_errors=True)


def _with_table_state(event: Any, settings: Settings) -> Any:
    if not isinstance(event, dg.Output):
        return event
    from cryptolake_assets.lake.catalog import get_catalog

    name = str(event.metadata["unique_id"].value).rpartition(".")[2]
    snapshot = get_catalog(settings).load_table((MARTS_NAMESPACE, name)).current_snapshot()
    if snapshot is None or snapshot.summary is None:
        return event
    return event.with_metadata(
        {
            **event.metadata,
            "dagster/table_name": f"{CATALOG}.{MARTS_NAMESPACE}.{name}",
            "dagster/row_count": int(snapshot.summary["total-records"] or 0),
            "snapshot_id": str(snapshot.snapshot_id),
            "files": int(snapshot.summary["total-data-files"] or 0),
        }
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return the marts. Parse dbt's project if its manifest is missing or out of date."""
    manifest, translator = ensure_manifest(graph.settings), MartsTranslator(graph)
    days = dbt_assets(
        manifest=manifest,
        select="cryptolake.marts",
        exclude=OVERVIEW,
        name="marts",
        partitions_def=graph.partitions.daily,
        backfill_policy=dg.BackfillPolicy.single_run(),
        dagster_dbt_translator=translator,
        pool=MARTS_POOL,
    )(marts_of_days)
    overview = dbt_assets(
        manifest=manifest,
        select=OVERVIEW,
        name="market_overview_model",
        dagster_dbt_translator=translator,
        pool=MARTS_POOL,
    )(market_overview)
    return dg.Definitions(assets=[days, overview])
