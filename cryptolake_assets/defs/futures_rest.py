"""Funding rates and open interest of the futures exchange as assets: answers in Bronze, typed rows in Silver.

A thin adapter of `ingest.batch_extract`; an entry of `BATCHES` makes the two assets, the job and the schedule of a
source.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from cryptolake_assets.captures.recorded_names import FUNDING_FILES, OPEN_INTEREST_FILES
from cryptolake_assets.defs import asset_keys, batch
from cryptolake_assets.defs.described import OWNERS, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.jobs import run_tags
from cryptolake_assets.defs.resources import RETRIES, LakeResource
from cryptolake_assets.ingest import funding, open_interest
from cryptolake_assets.ingest.batch_source import BatchSource, Plan
from cryptolake_assets.ingest.futures_rest import bounded
from cryptolake_assets.model.derivatives_tables import SILVER_FUNDING, SILVER_OPEN_INTEREST
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.quality.batch_checks import FUNDING_HOLES, PERIODS_MISSING, ROWS_LEFT_OUT, SYMBOLS_BEHIND
from cryptolake_assets.quality.candidate_checks import CheckOutcome
from cryptolake_assets.settings import Settings, Source

FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=3), fail_window=timedelta(hours=12))
"""An asset that was never materialized, because nobody can be asked, is not late."""

MAX_REQUESTS = 1_000
"""Of a run: a quarter of an hour at 60 calls a minute. What is left of a long history is for the next runs."""

Times = Mapping[str, Sequence[datetime]]


@dataclass(frozen=True)
class FuturesBatch:
    """One source: `plan` makes its requests of (newest time held by symbol, start of the wanted day, exchange's clock,
    symbols); `missing` warns of holes in the times that are held since `reach` before the clock (None: all of them)."""

    source: BatchSource
    silver: TableSpec
    plan: Callable[[Mapping[str, datetime], datetime, datetime, tuple[str, ...]], Plan]
    missing: Callable[[Times], CheckOutcome]
    missing_name: str
    behind: timedelta
    """A symbol whose newest row is older warns."""
    recorded: str
    """Pattern of the files that a capture has where the source can be asked."""
    what: str
    where: str = ""
    reach: timedelta | None = None

    @property
    def name(self) -> str:
        return self.source.name


def _funding_holes(held: Times) -> CheckOutcome:
    from cryptolake_assets.quality.batch_checks import funding_holes

    return funding_holes(held)


def _periods_missing(held: Times) -> CheckOutcome:
    from cryptolake_assets.quality.batch_checks import periods_missing

    return periods_missing(held)


BATCHES = (
    FuturesBatch(
        source=funding.SOURCE,
        silver=SILVER_FUNDING,
        plan=funding.plan,
        missing=_funding_holes,
        missing_name=FUNDING_HOLES,
        behind=timedelta(hours=9),
        recorded=FUNDING_FILES,
        what="funding rates",
    ),
    FuturesBatch(
        source=open_interest.SOURCE,
        silver=SILVER_OPEN_INTEREST,
        plan=open_interest.plan,
        missing=_periods_missing,
        missing_name=PERIODS_MISSING,
        behind=timedelta(hours=2),
        recorded=OPEN_INTEREST_FILES,
        what="open interest",
        where=f"source = '{open_interest.HISTORY}'",
        reach=open_interest.REACH,
    ),
)


def can_be_asked(settings: Settings, of: FuturesBatch) -> bool:
    """Of USD-M futures: live, or where the replayed capture has recorded answers."""
    if settings.market is not Market.USD_M:
        return False
    return settings.source is Source.BINANCE or any(settings.replay_dir.glob(of.recorded))


def _held(settings: Settings, of: FuturesBatch, clock: datetime) -> dict[str, list[datetime]]:
    from cryptolake_assets.ingest.stored_times import stored_times

    return stored_times(settings, of.silver, of.where, None if of.reach is None else clock - of.reach)


def _symbols(settings: Settings, clock: datetime) -> tuple[str, ...]:
    from cryptolake_assets.ingest.stored_times import tracked_symbols

    return tracked_symbols(settings, clock)


def _raw(graph: Graph, of: FuturesBatch) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_keys.of_table(of.source.raw),
        partitions_def=graph.partitions.daily,
        group_name="bronze",
        kinds={"rest", "iceberg"},
        owners=OWNERS,
        tags={"layer": "bronze", "cadence": "hour"},
        metadata=table_metadata(of.source.raw),
        pool=of.source.raw.writer_pool,
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        description=f"The exchange's answers on {of.what}, byte for byte; refused ones with the reason.",
    )
    def answers(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from cryptolake_assets.ingest import batch_extract as extract

        settings = lake.settings
        day = date.fromisoformat(context.partition_key)
        clock = extract.source_clock(settings)
        newest = {symbol: times[-1] for symbol, times in _held(settings, of, clock).items()}
        # Those of which something is held come first: a new symbol's whole history must not keep them waiting.
        symbols = tuple(sorted(_symbols(settings, clock), key=lambda symbol: symbol not in newest))
        requests = bounded(of.plan(newest, datetime.combine(day, time(), UTC), clock, symbols), MAX_REQUESTS)
        done = extract.extract(settings, of.source, requests, clock, day, context.run.run_id)
        return batch.extracted(context, of.source, done)

    return answers


def _silver(graph: Graph, of: FuturesBatch) -> dg.AssetsDefinition:
    key = asset_keys.of_table(of.silver)

    @dg.asset(
        key=key,
        deps=[asset_keys.of_table(of.source.raw)],
        partitions_def=graph.partitions.daily,
        group_name="silver",
        kinds={"duckdb", "iceberg"},
        owners=OWNERS,
        tags={"layer": "silver", "cadence": "hour"},
        code_version=batch.code_version(of.silver),
        metadata=batch.silver_metadata(of.silver, of.source.raw),
        pool=of.silver.writer_pool,
        output_required=False,
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        check_specs=batch.check_specs(key, of.silver, graph.partitions, of.missing_name, SYMBOLS_BEHIND, ROWS_LEFT_OUT),
        description=f"{of.silver.doc} From the accepted answers; upserted by one commit.",
    )
    def rows(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from cryptolake_assets.ingest.batch_extract import commit, source_clock
        from cryptolake_assets.quality.batch_checks import symbols_behind

        settings = lake.settings
        candidate = batch.candidate_of(settings, of.source, of.silver, date.fromisoformat(context.partition_key))
        results = batch.results_of(key, candidate)
        if not candidate.passed:
            yield from batch.rejected(candidate, results, context.partition_key)
        publication = commit(settings, candidate, context.run.run_id)
        clock = source_clock(settings)
        held = _held(settings, of, clock)
        outcomes = [
            of.missing(held),
            symbols_behind(held, _symbols(settings, clock), clock, of.behind),
            batch.rows_left_out(candidate),
        ]
        yield dg.MaterializeResult(
            metadata=batch.published(candidate, publication),
            check_results=[*results, *batch.warnings_of(key, outcomes)],
        )

    return rows


def _job(of: FuturesBatch) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        of.name,
        selection=dg.AssetSelection.assets(asset_keys.of_table(of.source.raw), asset_keys.of_table(of.silver)),
        tags=run_tags("bronze", timedelta(minutes=30)),
        description=f"The exchange's {of.what}: answers into Bronze, rows into Silver.",
    )


def _schedule(graph: Graph, of: FuturesBatch, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{of.name}_schedule",
        job=job,
        cron_schedule="*/10 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags={"cadence": "hour"},
        description="Once an hour. Asks nobody when a capture without recorded answers is replayed.",
    )
    def hourly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        if not can_be_asked(graph.settings, of):
            yield dg.SkipReason(f"the capture that is replayed has no {of.recorded}")
            return
        yield batch.once_an_hour(context, graph, of.name)

    return hourly


def definitions(graph: Graph) -> dg.Definitions:
    """Return each batch's two assets, its job and its schedule."""
    jobs = [_job(of) for of in BATCHES]
    return dg.Definitions(
        assets=[asset for of in BATCHES for asset in (_raw(graph, of), _silver(graph, of))],
        jobs=jobs,
        schedules=[_schedule(graph, of, job) for of, job in zip(BATCHES, jobs, strict=True)],
    )
