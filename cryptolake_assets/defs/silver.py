"""Silver: exact one-minute bars, checked before they are published. A thin adapter of `transform.silver_run`."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pydantic

from cryptolake_assets.defs import asset_keys, checks, previews
from cryptolake_assets.defs.automation import VERSION_TAG
from cryptolake_assets.defs.described import column_lineage, table_asset, table_metadata
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.partitions import hour_key, hour_of
from cryptolake_assets.defs.resources import EngineResource, LakeResource
from cryptolake_assets.model.bar_tables import SILVER_OHLCV
from cryptolake_assets.model.measures import BAR_MEASURES, definition_hash
from cryptolake_assets.model.symbols import in_capitals
from cryptolake_assets.model.trade_tables import BRONZE_TRADES
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.bar_checks import PUBLISHED_COUNT, SILVER_CHECKS, SILVER_OBSERVATIONS, UP_TO_DATE
from cryptolake_assets.settings import Engine as EngineName
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from cryptolake_assets.lake.commit import Publication
    from cryptolake_assets.transform.silver_candidate import RunScope, SilverCandidate
    from cryptolake_assets.transform.silver_run import DayOutcome

SilverEvent = dg.MaterializeResult | dg.AssetCheckResult | dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output
Metadata = Mapping[str, Any]


TABLE = {**table_metadata(SILVER_OHLCV), **column_lineage(BAR_MEASURES, BRONZE_TRADES, asset_keys.BRONZE)}
"""Name, columns and their lineage."""

PREVIEWED = ("symbol", "window_start", "open", "high", "low", "close", "volume", "trades", "is_complete")

FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(minutes=75), fail_window=timedelta(minutes=150))
"""Silver has a run an hour at least, by schedule. How far its bars reach is what the check `up_to_date` says."""

CHECK_KEYS = [dg.AssetCheckKey(asset_keys.SILVER, name) for name in (*SILVER_CHECKS, *SILVER_OBSERVATIONS)]
"""The checks that the asset makes itself, of every refresh; others count whole hours and are left to the jobs."""

HOURS_A_RUN = 24
"""Hours of a backfill that share a run: a month is some 30 runs, not 720."""


class SilverConfig(dg.Config):
    """What a Silver run recomputes of its hours, and with what: everything and by the settings without it."""

    from_sequence: int | None = pydantic.Field(
        default=None, ge=0, description="Bronze sequence number from which files count as new; without it all of them."
    )
    symbols: list[str] = pydantic.Field(default=[], description="Only the bars of these symbols.")
    window_start: str = pydantic.Field(default="", description="Only minutes from this time on: 2026-01-31T09:00:00Z.")
    window_end: str = pydantic.Field(default="", description="Only minutes before this time.")
    engine: str = pydantic.Field(
        default=EngineName.AUTO.value,
        pattern=f"^({'|'.join(EngineName)})$",
        description=f"{', '.join(EngineName)}; auto: as the settings say.",
    )

    @pydantic.field_validator("window_start", "window_end")
    @classmethod
    def _a_time(cls, value: str) -> str:
        _moment(value)
        return value

    def scope(self) -> "RunScope":
        from cryptolake_assets.transform.silver_candidate import RunScope

        symbols = tuple(in_capitals(symbol) for symbol in self.symbols)
        return RunScope(symbols, _moment(self.window_start), _moment(self.window_end))


def _moment(text: str) -> datetime | None:
    """A time in UTC, if it does not say otherwise; None for no text. Raises `ValueError` for what is no time."""
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def futures_ohlcv_1m(
    context: dg.AssetExecutionContext, config: SilverConfig, lake: LakeResource, engine: EngineResource
) -> Iterator[SilverEvent]:
    from cryptolake_assets.transform.silver_run import run_silver

    days = run_silver(
        lake.settings,
        engine.engine(EngineName(config.engine)),
        sorted(map(hour_of, context.partition_keys)),
        context.run.run_id,
        from_sequence=config.from_sequence,
        scope=config.scope(),
    )
    if context.has_partition_key:
        (day,) = days
        yield from _of_hour(context, lake.settings, day)
        return
    yield from _of_hours(context, lake.settings, days)
    # The checks have spoken for their hours; Dagster waits for one output of each besides.
    for spec in context.assets_def.check_specs:
        if spec.key in context.selected_asset_check_keys:
            yield dg.Output(None, output_name=spec.get_python_identifier())


def _of_hour(context: dg.AssetExecutionContext, settings: Settings, day: "DayOutcome") -> Iterator[SilverEvent]:
    """The events of a run of one partition."""
    (candidate,) = day.candidates
    check_results = [
        *checks.results(asset_keys.SILVER, SILVER_CHECKS, candidate.outcomes),
        *checks.results(asset_keys.SILVER, SILVER_OBSERVATIONS, candidate.observations, dg.AssetCheckSeverity.WARN),
    ]
    if day.publication is None:
        yield from check_results
        yield from _checks_of_other_steps(context, settings, day)
        raise checks.candidate_rejected(
            SILVER_OHLCV, [context.partition_key], candidate.outcomes, metadata=_metadata(candidate)
        )
    yield dg.MaterializeResult(
        metadata=_published(day, candidate, day.publication, day.publication.rows_changed),
        data_version=dg.DataVersion(_version(day.publication, candidate.hour)),
        check_results=check_results,
    )


def _of_hours(
    context: dg.AssetExecutionContext, settings: Settings, days: Iterable["DayOutcome"]
) -> Iterator[SilverEvent]:
    """The events of a run of a range: every hour has a materialization and checks of its own."""
    from cryptolake_assets.transform.silver_run import changed_by_hour

    rejected = []
    for day in days:
        changed = changed_by_hour(day.publication) if day.publication is not None else {}
        for candidate in day.candidates:
            key = hour_key(candidate.hour)
            yield from checks.evaluations(asset_keys.SILVER, SILVER_CHECKS, candidate.outcomes, key)
            yield from checks.evaluations(
                asset_keys.SILVER, SILVER_OBSERVATIONS, candidate.observations, key, dg.AssetCheckSeverity.WARN
            )
            if day.publication is not None and candidate.passed:
                metadata = _published(day, candidate, day.publication, changed[candidate.hour])
                tags = {VERSION_TAG: _version(day.publication, candidate.hour)}
                yield dg.AssetMaterialization(asset_keys.SILVER, partition=key, metadata=metadata, tags=tags)
            else:
                rejected.append(candidate)
    yield from _checks_of_other_steps(context, settings, day)
    if rejected:
        raise checks.candidate_rejected(
            SILVER_OHLCV,
            [hour_key(candidate.hour) for candidate in rejected],
            [outcome for candidate in rejected for outcome in candidate.outcomes],
        )


def _version(publication: "Publication", hour: datetime) -> str:
    """Return the data version of the hour's bars: the same as before when none of them has changed."""
    return publication.version("window_start", hour, hour + HOUR)


def _checks_of_other_steps(
    context: dg.AssetExecutionContext, settings: Settings, day: "DayOutcome"
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluate the run's checks of Silver that are steps of their own: Dagster skips these steps, because the asset has
    no output in a run of many hours, or of an hour whose candidate was rejected."""
    from cryptolake_assets.transform.freshness import check_up_to_date
    from cryptolake_assets.transform.published_count import check_published

    planned = checks.planned(context)
    for key in planned.get(dg.AssetCheckKey(asset_keys.SILVER, PUBLISHED_COUNT), ()):
        outcome = check_published(settings, hour_of(str(key)), day.inputs.known.rules)
        yield from checks.evaluations(asset_keys.SILVER, [PUBLISHED_COUNT], [outcome], key)
    if partitions := planned.get(dg.AssetCheckKey(asset_keys.SILVER, UP_TO_DATE)):
        freshness = check_up_to_date(settings)
        severity = dg.AssetCheckSeverity.ERROR if freshness.is_error else dg.AssetCheckSeverity.WARN
        for key in partitions:
            yield from checks.evaluations(
                asset_keys.SILVER, [UP_TO_DATE], [freshness.outcome], key, severity, blocking=False
            )


def _published(
    day: "DayOutcome", candidate: "SilverCandidate", publication: "Publication", bars_changed: int
) -> Metadata:
    return {
        **TABLE,
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
    """What became of the rows read."""
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
    """Return Silver's asset."""
    asset = table_asset(
        SILVER_OHLCV,
        graph.partitions.hourly,
        cadence="minute",
        kinds={"duckdb", "spark", "iceberg"},
        deps=[asset_keys.BRONZE, asset_keys.ARCHIVE],
        code_version=definition_hash(BAR_MEASURES),
        metadata=TABLE,
        freshness_policy=FRESH,
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        check_specs=[
            *checks.specs(asset_keys.SILVER, SILVER_CHECKS, graph.partitions.hourly),
            *checks.specs(asset_keys.SILVER, SILVER_OBSERVATIONS, graph.partitions.hourly, blocking=False),
        ],
        description=(
            "Exact one-minute bars per symbol. Recomputed from Bronze for the touched minutes, checked in memory and "
            "published by one commit; when a check fails nothing is published and the previous bars stay."
        ),
    )(futures_ohlcv_1m)
    return dg.Definitions(assets=[asset])
