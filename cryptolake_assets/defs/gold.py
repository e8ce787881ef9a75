"""Gold: daily stats from Silver. A thin adapter of `transform.refresh_gold`."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from cryptolake_assets.defs import asset_keys, checks, previews, silver
from cryptolake_assets.defs.automation import follows_upstream, freshness_of_followers
from cryptolake_assets.defs.described import OWNERS, column_lineage, table_metadata
from cryptolake_assets.defs.partitions import daily
from cryptolake_assets.defs.resources import RETRIES, EngineResource, LakeResource
from cryptolake_assets.model.bar_tables import GOLD_DAILY, SILVER_OHLCV
from cryptolake_assets.model.measures import DAILY_MEASURES, definition_hash
from cryptolake_assets.quality.bar_checks import GOLD_CHECKS
from cryptolake_assets.settings import get_settings

if TYPE_CHECKING:
    import pyarrow as pa

KEY = asset_keys.GOLD

TABLE = {**table_metadata(GOLD_DAILY), **column_lineage(DAILY_MEASURES, SILVER_OHLCV, silver.KEY)}
"""Name, columns and their lineage."""

PREVIEWED = ("symbol", "open", "high", "low", "close", "total_volume", "vwap", "realised_volatility", "is_complete")

DAYS_DRAWN = 30


@dg.asset(
    key=KEY,
    deps=[silver.KEY],
    partitions_def=daily(),
    group_name="gold",
    kinds={"duckdb", "spark", "iceberg"},
    owners=OWNERS,
    tags={"layer": "gold", "cadence": "day"},
    code_version=definition_hash(DAILY_MEASURES),
    metadata=TABLE,
    pool=GOLD_DAILY.writer_pool,
    output_required=False,
    automation_condition=follows_upstream(get_settings().gold_interval_min, "follows_silver"),
    freshness_policy=freshness_of_followers(get_settings()),
    retry_policy=RETRIES,
    check_specs=checks.specs(KEY, GOLD_CHECKS, daily()),
    description="Daily statistics per symbol, from the one-minute bars; published by one commit once the checks pass.",
)
def futures_daily_stats(
    context: dg.AssetExecutionContext, lake: LakeResource, engine: EngineResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from cryptolake_assets.transform import refresh_gold

    settings = lake.settings
    day = date.fromisoformat(context.partition_key)
    candidate = refresh_gold.prepare(settings, engine.engine(), day)
    check_results = list(checks.results(KEY, GOLD_CHECKS, candidate.outcomes))
    if not candidate.passed:
        refresh_gold.record_run(settings, candidate, None, context.run.run_id)
        yield from check_results
        failed = ", ".join(outcome.name for outcome in candidate.outcomes if not outcome.passed)
        raise dg.Failure(
            f"gold: {context.partition_key} is held back, its rows stay as they were. Failed checks: {failed}.",
            allow_retries=False,
        )
    publication = refresh_gold.commit(settings, candidate, context.run.run_id)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": candidate.rows.num_rows,
            **TABLE,
            "snapshot_id": str(publication.snapshot_id),
            "silver_snapshot_id": str(candidate.silver_snapshot),
            "rows_changed": publication.rows_changed,
            "bars_read": candidate.bars_read,
            "duration_ms": candidate.duration_ms,
            "engine": candidate.engine,
            "preview": previews.preview(candidate.rows, PREVIEWED),
            **_picture(refresh_gold.last_days(settings, day, DAYS_DRAWN), day),
        },
        data_version=dg.DataVersion(publication.version("trade_date", day, day + timedelta(days=1))),
        check_results=check_results,
    )


def _picture(days: "pa.Table", last: date) -> dict[str, dg.MarkdownMetadataValue]:
    """The days up to this one."""
    from cryptolake_assets.lake.windows import DAY
    from cryptolake_assets.transform.candlesticks import Candle

    candles = [
        Candle.of(row, _midnight(row["trade_date"]), volume="total_volume", turnover="total_quote_volume")
        for row in days.to_pylist()
    ]
    if not candles:
        return {}
    end = _midnight(last) + DAY
    return {"picture": previews.picture(candles, end - DAYS_DRAWN * DAY, end, DAY)}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
