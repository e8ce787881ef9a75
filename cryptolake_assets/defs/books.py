"""Silver of order books: the book of each second, checkpoints and gaps, in hourly partitions. A thin adapter of
`transform.book_run`."""

from collections.abc import Iterator
from datetime import datetime

import dagster as dg
import pydantic

from cryptolake_assets.binance.depth_frames import STREAMS
from cryptolake_assets.binance.stream_type import EventStream
from cryptolake_assets.captures.tracked_symbols import streams_in_use
from cryptolake_assets.defs import asset_keys, audited
from cryptolake_assets.defs.audited import Audited, AuditedTable
from cryptolake_assets.defs.bronze import FRESH_EXTRA
from cryptolake_assets.defs.described import code_version, table_asset, table_metadata
from cryptolake_assets.defs.follower import Followed, follower
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key, hour_of
from cryptolake_assets.defs.resources import LakeResource
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FamilyTables
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.book_checks import BLOCKING, RULES, WARNING

INTERVAL_S = 60.0  # minimum time between two refreshes of an hour (scaled by the replay speed)
HOURS_A_RUN = 24


class BookConfig(dg.Config):
    """Scope of a run; default: the whole hours."""

    from_sequence: int | None = pydantic.Field(
        default=None, ge=0, description="Bronze sequence number from which files count as new; default: all files."
    )


def _lineage(tables: FamilyTables) -> dg.TableColumnLineage:
    """Return the column lineage: every value comes from the levels of updates and snapshots."""
    sides = [
        dg.TableColumnDep(asset_keys.of_table(table), side)
        for table in (tables.depth_updates, tables.depth_snapshots)
        for side in ("bids", "asks")
    ]
    updates = asset_keys.of_table(tables.depth_updates)
    own = {"exchange": "exchange", "symbol": "symbol", "window_start": "event_time", "updates": "final_update_id"}
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(updates, own[name])] if name in own else sides
            for name in tables.book_1s.column_names
            if name != "updated_at"
        }
    )


def _silver(graph: Graph, stream: EventStream) -> dg.AssetsDefinition:
    tables = FAMILY_TABLES[stream.family]
    audited_table = AuditedTable(tables.book_1s, BLOCKING, WARNING)

    def books(context: dg.AssetExecutionContext, config: BookConfig, lake: LakeResource) -> Iterator[audited.Event]:
        hours = sorted(map(hour_of, context.partition_keys))
        yield from audited.events(
            context, audited_table, (_audited(context, config, lake, stream, hour) for hour in hours)
        )

    return table_asset(
        tables.book_1s,
        graph.partitions.hourly,
        family=stream.family,
        cadence="minute",
        kinds={"python", "iceberg"},
        deps=[
            asset_keys.of_table(table) for table in (tables.depth_updates, tables.depth_snapshots, tables.book_tickers)
        ],
        code_version=code_version(tables.book_1s, *RULES.values()),
        metadata={"dagster/column_lineage": _lineage(tables)},
        freshness_policy=FRESH_EXTRA,
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        check_specs=audited_table.check_specs(graph.partitions.hourly),
        description=(
            f"{tables.book_1s.doc} By write-audit-publish: books are rebuilt from snapshots and depth updates, "
            f"checked, and published with their checkpoints (`{tables.book_checkpoints.name}`) and gaps "
            f"(`{tables.book_gaps.name}`)."
        ),
    )(books)


def _audited(
    context: dg.AssetExecutionContext, config: BookConfig, lake: LakeResource, stream: EventStream, hour: datetime
) -> Audited:
    from cryptolake_assets.transform.book_run import run_books

    settings = lake.settings.of_family(stream.family)
    candidate, publication = run_books(settings, hour, context.run.run_id, from_sequence=config.from_sequence)
    metadata, version = {}, None
    if publication is not None:
        version = publication.version("window_start", hour, hour + HOUR)
        metadata = {
            "dagster/row_count": candidate.seconds.num_rows,
            **table_metadata(settings.tables.book_1s),
            "snapshot_id": str(publication.snapshot_id),
            "bronze_snapshot_id": str(candidate.bronze_snapshot),
            "books": len(candidate.replaces_from),
            "updates": candidate.updates,
            "gaps": candidate.gaps.num_rows,
            "checkpoints": candidate.checkpoints.num_rows,
            "tops_compared": candidate.compared,
            "tops_different": len(candidate.different),
            "rows_changed": publication.rows_changed,
        }
    return Audited(hour_key(hour), candidate.outcomes, candidate.observations, metadata, version)


def followed(stream: EventStream) -> Followed:
    """Return the follower's limits for the books of a family."""
    return Followed(
        stream=stream,
        silver=asset_keys.of_table(FAMILY_TABLES[stream.family].book_1s),
        interval_s=lambda settings: INTERVAL_S / settings.clock_factor,
        tick_s=lambda _: 10,
        max_runs_in_flight=2,  # leaves capacity for the trades
        max_events_a_tick=20,
        hours_a_run=HOURS_A_RUN,
        config=lambda request: {"from_sequence": request.from_sequence} if request.from_sequence else {},
    )


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of the families in use, and the sensors of those whose depth updates are in use.

    There are no sensors if the capture cannot be read; the replay exchange reports that.
    """
    of_families = [stream for stream in STREAMS if stream.family in graph.settings.families]
    try:
        in_use = {stream.name for stream in streams_in_use(graph.settings)}
    except CaptureError:
        in_use = set()
    return dg.Definitions(
        assets=[_silver(graph, stream) for stream in of_families],
        sensors=[follower(graph, followed(stream)) for stream in of_families if stream.name in in_use],
    )
