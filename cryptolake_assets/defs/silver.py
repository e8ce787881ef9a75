"""Silver: exact one-minute bars by write-audit-publish. A thin adapter of `transform.silver_run`."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pydantic

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.defs import audited, checks, previews
from cryptolake_assets.defs.asset_keys import FAMILY_KEYS
from cryptolake_assets.defs.audited import Audited, AuditedTable
from cryptolake_assets.defs.described import TITLES, column_lineage, table_asset, table_metadata
from cryptolake_assets.defs.follower import Followed, follower
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key, hour_of
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.measures import BAR_MEASURES, definition_hash
from cryptolake_assets.model.symbols import in_capitals
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.bar_checks import (
    LIVE_BARS,
    PUBLISHED_COUNT,
    SILVER_CHECKS,
    SILVER_OBSERVATIONS,
    UP_TO_DATE,
)
from cryptolake_assets.settings import Engine as EngineName
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from cryptolake_assets.lake.commit import Publication
    from cryptolake_assets.transform.silver_candidate import RunScope, SilverCandidate
    from cryptolake_assets.transform.silver_run import DayOutcome

Metadata = Mapping[str, Any]


PREVIEWED = (
    *("exchange", "symbol", "window_start", "open", "high", "low", "close"),
    *("volume", "trades", "is_complete"),
)

# The schedule runs Silver at least hourly. The check `up_to_date` reports how recent its bars are.
FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(minutes=75), fail_window=timedelta(minutes=150))

HOURS_A_RUN = 24  # hours of a backfill per run: a month takes about 30 runs instead of 720


def check_keys(family: Family) -> list[dg.AssetCheckKey]:
    """Return the checks that the asset's run evaluates at every refresh; the others count full hours and run in the
    jobs."""
    return [dg.AssetCheckKey(FAMILY_KEYS[family].bars, name) for name in (*SILVER_CHECKS, *SILVER_OBSERVATIONS)]


def followed(family: Family) -> Followed:
    """Return the follower's limits for the bars of a family."""
    return Followed(
        stream=TRADES_OF_FAMILY[family],
        silver=FAMILY_KEYS[family].bars,
        checks=check_keys(family),
        interval_s=lambda settings: settings.silver_interval_in_use_s,
        tick_s=lambda settings: settings.follower_interval_s,
        max_runs_in_flight=24,
        max_events_a_tick=100,  # SQLite writes about 60 events a second, and a tick may take a minute
        hours_a_run=HOURS_A_RUN,
        config=lambda request: {"from_sequence": request.from_sequence} if request.from_sequence else {},
        has_priority=True,
        # A session of Spark would end with its server, and not be renewed in the code server.
        in_tick={"engine": EngineName.DUCKDB.value},
    )


class SilverConfig(dg.Config):
    """Scope and engine of a Silver run; default: all minutes of its hours, with the engine of the settings."""

    from_sequence: int | None = pydantic.Field(
        default=None, ge=0, description="Bronze sequence number from which files count as new; default: all files."
    )
    exchanges: list[str] = pydantic.Field(
        default=[], description="Recompute only these values of the column `exchange`, such as binance_futures."
    )
    symbols: list[str] = pydantic.Field(default=[], description="Recompute only these symbols.")
    window_start: str = pydantic.Field(
        default="", description="Recompute only minutes from this time on, such as 2026-01-31T09:00:00Z."
    )
    window_end: str = pydantic.Field(default="", description="Recompute only minutes before this time.")
    engine: str = pydantic.Field(
        default=EngineName.AUTO.value,
        pattern=f"^({'|'.join(EngineName)})$",
        description=f"{', '.join(EngineName)}; auto: the engine of the settings.",
    )

    @pydantic.field_validator("window_start", "window_end")
    @classmethod
    def _check_time(cls, value: str) -> str:
        _moment(value)
        return value

    def scope(self) -> "RunScope":
        from cryptolake_assets.transform.silver_candidate import RunScope

        symbols = tuple(in_capitals(symbol) for symbol in self.symbols)
        return RunScope(symbols, _moment(self.window_start), _moment(self.window_end), tuple(self.exchanges))


def _moment(text: str) -> datetime | None:
    """Parse an ISO time, UTC by default; None for an empty text. Raises `ValueError` for an invalid time."""
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _asset(graph: Graph, family: Family) -> dg.AssetsDefinition:
    tables, keys = FAMILY_TABLES[family], FAMILY_KEYS[family]
    audited_table = AuditedTable(tables.bars, SILVER_CHECKS, SILVER_OBSERVATIONS)
    described = {**table_metadata(tables.bars), **column_lineage(BAR_MEASURES, tables.trades, keys.trades)}

    def ohlcv_1m(
        context: dg.AssetExecutionContext, config: SilverConfig, lake: LakeResource, engine: EngineResource
    ) -> Iterator[audited.Event]:
        from cryptolake_assets.transform.silver_run import run_silver

        settings = lake.settings.of_family(family)
        hours = sorted(map(hour_of, context.partition_keys))
        days = run_silver(
            settings,
            engine.engine(EngineName(config.engine)),
            hours,
            context.run.run_id,
            from_sequence=config.from_sequence,
            scope=config.scope(),
        )
        yield from audited.events(
            context,
            audited_table,
            (hour for day in days for hour in _audited(day, described)),
            lambda: _checks_of_other_steps(context, settings, keys.bars),
        )

    return table_asset(
        tables.bars,
        graph.partitions.hourly,
        family=family,
        cadence="minute",
        kinds={"duckdb", "spark", "iceberg"},
        deps=[keys.trades, keys.archive],
        code_version=definition_hash(BAR_MEASURES),
        metadata=described,
        freshness_policy=FRESH,
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        check_specs=audited_table.check_specs(graph.partitions.hourly),
        description=(
            f"Exact one-minute bars per symbol of {TITLES[family]}, by write-audit-publish: recomputed from Bronze for "
            "the touched minutes, checked as a candidate and published by one commit. If a check fails, the candidate "
            "is rejected and the published bars stay."
        ),
    )(ohlcv_1m)


def _audited(day: "DayOutcome", described: Metadata) -> Iterator[Audited]:
    """Yield a day's hours with their check outcomes; `described` is the metadata of the table."""
    from cryptolake_assets.transform.silver_run import changed_by_hour

    publication = day.publication
    changed = changed_by_hour(publication) if publication is not None else {}
    for candidate in day.candidates:
        metadata = _metadata(candidate)
        version: str | None = None
        if publication is not None and candidate.passed:
            metadata = {**described, **_published(day, candidate, publication, changed[candidate.hour])}
            version = publication.version("window_start", candidate.hour, candidate.hour + HOUR)
        yield Audited(hour_key(candidate.hour), candidate.outcomes, candidate.observations, metadata, version)


def _checks_of_other_steps(
    context: dg.AssetExecutionContext, settings: Settings, bars: dg.AssetKey
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluate the run's checks of the bars that have separate steps."""
    from cryptolake_assets.live.settled_counts import check_live_bars
    from cryptolake_assets.transform.freshness import check_up_to_date
    from cryptolake_assets.transform.load_inputs import load_run_inputs
    from cryptolake_assets.transform.published_count import check_published

    planned = checks.planned(context)
    if counted := sorted(map(str, planned.get(dg.AssetCheckKey(bars, PUBLISHED_COUNT), ()))):
        rules = load_run_inputs(settings, hour_of(counted[0]), hour_of(counted[-1]) + HOUR).rules
        for key in counted:
            outcome = check_published(settings, hour_of(key), rules)
            yield from checks.evaluations(bars, [PUBLISHED_COUNT], [outcome], key)
    if partitions := planned.get(dg.AssetCheckKey(bars, UP_TO_DATE)):
        freshness = check_up_to_date(settings)
        severity = dg.AssetCheckSeverity.ERROR if freshness.is_error else dg.AssetCheckSeverity.WARN
        for partition in partitions:
            yield from checks.evaluations(bars, [UP_TO_DATE], [freshness.outcome], partition, severity, blocking=False)
    if partitions := planned.get(dg.AssetCheckKey(bars, LIVE_BARS)):
        equal, severity = check_live_bars(settings), dg.AssetCheckSeverity.WARN
        for partition in partitions:
            yield from checks.evaluations(bars, [LIVE_BARS], [equal], partition, severity)


def _published(
    day: "DayOutcome", candidate: "SilverCandidate", publication: "Publication", bars_changed: int
) -> Metadata:
    return {
        "snapshot_id": str(publication.snapshot_id),
        "bronze_snapshot_id": str(day.inputs.bronze_snapshot),
        "bronze_sequence": day.inputs.bronze_sequence,
        "rows_quarantined": day.quarantined,
        "bars_changed": bars_changed,
        "engine": day.engine,
        "preview": previews.preview(candidate.bars, PREVIEWED),
        **_metadata(candidate),
    }


def _metadata(candidate: "SilverCandidate") -> Metadata:
    """Return the counts of bars and of read, valid, dropped and rejected rows."""
    counts = candidate.counts
    return {
        "dagster/row_count": candidate.bars.num_rows,
        "bars_incomplete": candidate.incomplete_minutes,
        "rows_in": counts.rows_in,
        "rows_valid": counts.rows_valid,
        "rows_dropped": counts.rows_dropped,
        "rows_dropped_by_rule": counts.dropped_by_rule,
        "rows_duplicate": counts.rows_duplicate,
        "rows_other_type": counts.rows_other_type,
        "rows_rejected": candidate.rows_rejected,
        "duration_ms": candidate.duration_ms,
    }


def definitions(graph: Graph) -> dg.Definitions:
    """Return Silver's assets and the sensors that request their runs."""
    families = graph.settings.families
    return dg.Definitions(
        assets=[_asset(graph, family) for family in families],
        sensors=[follower(graph, followed(family)) for family in families],
    )
