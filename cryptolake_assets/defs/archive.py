"""History from the exchange's public archive as an asset per market family, partitioned by UTC day. A thin adapter of
`transform.archive_history`.

Runs write the tables of the family's trades and klines; the sensor that follows the trades requests the touched hours
of Silver, and Gold follows Silver.
"""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pydantic

from cryptolake_assets.defs import checks
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS, FamilyKeys
from cryptolake_assets.defs.described import OWNERS, TITLES, family_tag, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.instance.pools import ARCHIVE_POOLS
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.defs.resources import RETRIES, LakeResource
from cryptolake_assets.ingest.archive_checks import BLOCKING, KLINES_OF_DAY, WARNING
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.symbols import in_capitals

if TYPE_CHECKING:
    from cryptolake_assets.binance.archive_files import ArchiveFile
    from cryptolake_assets.settings import Settings
    from cryptolake_assets.transform.archive_history import ArchiveDay

DAYS_A_RUN = 7

# History is loaded on demand only, so freshness practically never fails.
FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=365), fail_window=timedelta(days=3650))

ArchiveEvent = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output


class ArchiveConfig(dg.Config):
    """Symbols and files that a run loads for its days."""

    symbols: list[str] = pydantic.Field(
        default=[],
        description="Symbols, such as BTCUSDT or BTCUSD_PERP; default: the tracked symbols.",
    )
    reload: bool = pydantic.Field(
        default=False, description="Load a file again even if the same file (by SHA-256) is already loaded."
    )
    klines: bool = pydantic.Field(
        default=True, description="Also load the day's official one-minute klines, to compare Silver with."
    )


def _asset(graph: Graph, family: Family) -> dg.AssetsDefinition:
    tables, keys = FAMILY_TABLES[family], FAMILY_KEYS[family]

    def trades_archive(
        context: dg.AssetExecutionContext, config: ArchiveConfig, lake: LakeResource
    ) -> Iterator[ArchiveEvent]:
        settings = lake.settings.of_family(family)
        days = [
            _Day(keys, key, list(_load(context, settings, config, date.fromisoformat(key))))
            for key in sorted(context.partition_keys)
        ]
        # Yield events only after all days are loaded: a run must not report a check twice, and a failed step is
        # retried.
        for day in days:
            yield from day.events()
        for spec in context.assets_def.check_specs:
            if spec.key in context.selected_asset_check_keys:
                yield dg.Output(None, output_name=spec.get_python_identifier())
        failed = [day for day in days if not day.is_good]
        if failed:
            raise dg.Failure("; ".join(day.reason() for day in failed), allow_retries=False)

    asset: dg.AssetsDefinition = dg.asset(
        key=keys.archive,
        partitions_def=graph.partitions.daily,
        group_name="bronze",
        kinds={"http", "iceberg"},
        owners=OWNERS,
        tags={"layer": "bronze", "cadence": "on-demand", **family_tag(family)},
        metadata=table_metadata(tables.trades),
        pool=ARCHIVE_POOLS[family],
        freshness_policy=FRESH,
        retry_policy=RETRIES,
        backfill_policy=dg.BackfillPolicy.multi_run(DAYS_A_RUN),
        output_required=False,
        check_specs=[
            *checks.specs(keys.archive, BLOCKING, graph.partitions.daily),
            *checks.specs(keys.archive, (*WARNING, KLINES_OF_DAY), graph.partitions.daily, blocking=False),
        ],
        description=(
            f"A UTC day of aggregate trades of {TITLES[family]} from the public archive, loaded into "
            f"bronze.{tables.trades.name} after checksum verification: one commit per symbol, which replaces an "
            "earlier version of the file. Silver deduplicates trades that the stream delivered too. A file that fails "
            "a check is rejected and the rows loaded before stay. The run also loads the day's official klines, to "
            "compare Silver with."
        ),
    )(trades_archive)
    return asset


def _load(
    context: dg.AssetExecutionContext, settings: "Settings", config: ArchiveConfig, day: date
) -> Iterator["ArchiveDay"]:
    """Load the symbols of a day one by one; yield each result."""
    from cryptolake_assets.binance.archive_files import ArchiveClient
    from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
    from cryptolake_assets.ingest.archive_days import NotLoaded
    from cryptolake_assets.transform.archive_history import LoadProgress, load_history

    markets = map(settings.of_market, settings.family_markets)
    symbols = [in_capitals(symbol) for symbol in config.symbols] or [
        symbol for market in markets for symbol in resolve_subscriptions(market).symbols
    ]
    with ArchiveClient(settings.archive_url) as client:
        for symbol in symbols:
            progress_log = _ProgressLog(context)
            result = load_history(
                settings,
                client,
                symbol,
                day,
                context.run.run_id,
                klines=config.klines,
                reload=config.reload,
                progress=LoadProgress(progress_log.begun, progress_log.downloaded, progress_log.written),
            )
            for part in (result.klines, result.trades):
                if isinstance(part, NotLoaded):
                    context.log.warning(part.reason)
            if not isinstance(result.trades, NotLoaded):
                loaded = result.trades
                context.log.info(f"{loaded.file.name}: {loaded.outcome}, {loaded.rows:,} rows, {loaded.duration_ms} ms")
            yield result


class _Day:
    """The load results of a partition's symbols, as Dagster events."""

    def __init__(self, keys: FamilyKeys, key: str, days: "Sequence[ArchiveDay]") -> None:
        from cryptolake_assets.ingest.archive_days import NotLoaded, Outcome

        self.keys, self.key = keys, key
        self._klines = [day.klines for day in days if day.klines is not None and not day.is_missing]
        self._agreements = {hour: agreement for day in days for hour, agreement in day.agreements.items()}
        results = [day.trades for day in days]
        not_loaded = [result for result in results if isinstance(result, NotLoaded)]
        self.missing = [result.reason for result in not_loaded if result.outcome is Outcome.MISSING]
        self.rejected = [result.reason for result in not_loaded if result.outcome is Outcome.REJECTED]
        self.loaded = [result for result in results if not isinstance(result, NotLoaded)]
        self._failed = [day for day in self.loaded if day.outcome is Outcome.REJECTED]

    @property
    def is_good(self) -> bool:
        """Return whether a file was loaded and none was rejected; symbols not listed that day have no file."""
        return bool(self.loaded) and not self.rejected and not self._failed

    def reason(self) -> str:
        """Return the causes of the failure of a day that is not good."""
        failed = [
            f"archive: {day.file.name} was rejected; the rows loaded before stay. Failed checks: "
            + ", ".join(outcome.name for outcome in day.outcomes if not outcome.passed)
            for day in self._failed
        ]
        return "; ".join([*self.rejected, *failed, *([] if self.loaded else self.missing)])

    def events(self) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        from cryptolake_assets.ingest.archive_checks import CHECKSUM
        from cryptolake_assets.ingest.archive_klines import check_klines
        from cryptolake_assets.quality.bar_checks import OFFICIAL_KLINES
        from cryptolake_assets.quality.candidate_checks import CheckOutcome, joined

        outcomes = joined([*(outcome for day in self.loaded for outcome in day.outcomes)])
        if self.rejected:
            outcomes = [item for item in outcomes if item.name != CHECKSUM]
            outcomes.append(CheckOutcome(CHECKSUM, False, "; ".join(self.rejected), len(self.rejected)))
        yield from checks.evaluations(self.keys.archive, BLOCKING, outcomes, self.key)
        yield from checks.evaluations(self.keys.archive, WARNING, outcomes, self.key, dg.AssetCheckSeverity.WARN)
        of_klines = joined([check_klines(result) for result in self._klines])
        of_klines = of_klines or [CheckOutcome(KLINES_OF_DAY, True, "no klines were loaded")]
        yield from checks.evaluations(
            self.keys.archive, [KLINES_OF_DAY], of_klines, self.key, dg.AssetCheckSeverity.WARN
        )
        for hour, agreement in sorted(self._agreements.items()):
            yield from checks.evaluations(
                self.keys.bars, [OFFICIAL_KLINES], [agreement.outcome], hour_key(hour), dg.AssetCheckSeverity.WARN
            )
        if self.is_good:
            yield dg.AssetMaterialization(self.keys.archive, partition=self.key, metadata=self._metadata())

    def _metadata(self) -> dict[str, dg.MetadataValue]:
        from cryptolake_assets.ingest.archive_days import NotLoaded

        lines = ["file | outcome | rows | rows replaced | sha256", "--- | --- | --- | --- | ---"]
        lines += [
            f"{day.file.name} | {day.outcome} | {day.rows:,} | {day.rows_removed:,} | {day.sha256}"
            for day in self.loaded
        ]
        klines = [result for result in self._klines if not isinstance(result, NotLoaded)]
        lines += [
            f"{result.file.name} | {result.outcome} | {result.klines:,} | {result.removed:,} | {result.sha256}"
            for result in klines
        ]
        snapshots = [day.snapshot_id for day in self.loaded if day.snapshot_id is not None]
        return {
            "dagster/row_count": dg.MetadataValue.int(sum(day.rows for day in self.loaded)),
            "klines": dg.MetadataValue.int(sum(result.klines for result in klines)),
            "rows_replaced": dg.MetadataValue.int(sum(day.rows_removed for day in self.loaded)),
            "files": dg.MetadataValue.md("\n".join(lines)),
            "not_published": dg.MetadataValue.text("; ".join(self.missing) or "none"),
            **({"snapshot_id": dg.MetadataValue.text(str(snapshots[-1]))} if snapshots else {}),
        }


class _ProgressLog:
    """Logs the progress of a file in the run's log: a line per downloaded quarter and per million rows written."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context, self._name = context, ""
        self._quarters = self._millions = 0

    def begun(self, file: "ArchiveFile") -> None:
        self._name, self._quarters, self._millions = file.name, 0, 0

    def downloaded(self, done: int, total: int | None) -> None:
        quarters = done * 4 // total if total else 0
        if quarters > self._quarters:
            self._quarters = quarters
            self._context.log.info(f"{self._name}: {done / 1e6:.1f} of {(total or 0) / 1e6:.1f} MB")

    def written(self, rows: int) -> None:
        if rows // 1_000_000 > self._millions:
            self._millions = rows // 1_000_000
            self._context.log.info(f"{self._name}: {rows:,} rows written")


def definitions(graph: Graph) -> dg.Definitions:
    """Return the assets of the public archive."""
    return dg.Definitions(assets=[_asset(graph, family) for family in graph.settings.families])
