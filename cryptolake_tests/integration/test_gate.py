"""During and after a run that fails its gate, readers see the previous bars, in Spark and in PyIceberg."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.defs.resources import EngineResource
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.filters import between
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.family_tables import FUTURES, FamilyTables
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.minute_bars import MinuteAggregates
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_assets.transform.engines.engine import AggregationEngine
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.silver_runs import refresh

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

START = datetime(2024, 11, 20, 10, tzinfo=UTC)
Reading = tuple[int | None, list[dict[str, Any]], list[dict[str, Any]]]


class WatchedEngine:
    """The real engine; calls `watch` after the candidate's aggregates are computed, in the middle of the run."""

    def __init__(self, engine: AggregationEngine, watch: Callable[[], None]) -> None:
        self.name = engine.name
        self._engine = engine
        self._watch = watch

    def minute_aggregates(
        self,
        tables: FamilyTables,
        snapshot_id: int,
        hours: Sequence[datetime],
        minutes: pa.Table | None,
        context: RuleContext,
    ) -> Iterator[tuple[datetime, MinuteAggregates]]:
        for hour, aggregates in self._engine.minute_aggregates(tables, snapshot_id, hours, minutes, context):
            self._watch()
            yield hour, aggregates

    def daily_aggregates(self, tables: FamilyTables, snapshot_id: int, day: Any) -> pa.Table:
        return self._engine.daily_aggregates(tables, snapshot_id, day)


@pytest.fixture(scope="module")
def spark(platform: Settings) -> Iterator[SparkSession]:
    session = connect(platform)
    yield session
    session.stop()


def read(settings: Settings, spark: SparkSession) -> Reading:
    """Return the table's snapshot, and the hour's bars as read by PyIceberg and by Spark."""
    table = load_table(settings, FUTURES.bars)
    by_pyiceberg = table.scan(row_filter=between("window_start", START, START + HOUR)).to_arrow()
    by_spark = spark.sql(
        f"SELECT * FROM {FUTURES.bars.full_name} WHERE window_start >= TIMESTAMP '{START.isoformat()}' "
        f"AND window_start < TIMESTAMP '{(START + HOUR).isoformat()}'"
    ).toArrow()
    order = [("symbol", "ascending"), ("window_start", "ascending")]
    return (
        table.metadata.current_snapshot_id,
        by_pyiceberg.sort_by(order).to_pylist(),
        by_spark.sort_by(order).to_pylist(),
    )


def test_readers_never_see_a_failed_candidate(
    settings: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [trade(START + timedelta(seconds=20 * number), number) for number in range(30)]
    sequence = append(settings, good)
    _, publication = refresh(settings, DuckDBEngine(settings), START, sequence)
    assert publication is not None
    before = read(settings, spark)
    assert before[1] == before[2]
    assert len(before[1]) == 10

    # Prices that would change every bar, and enough invalid trades to fail the gate.
    changed = [trade(START + timedelta(seconds=20 * number), 100 + number, price="900") for number in range(30)]
    invalid = [trade(START + timedelta(seconds=20 * number), 200 + number, price="-1") for number in range(30)]
    append(settings, changed + invalid)
    during: list[Reading] = []
    monkeypatch.setattr(
        EngineResource,
        "engine",
        lambda *_: WatchedEngine(DuckDBEngine(settings), lambda: during.append(read(settings, spark))),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions().resolve_implicit_global_asset_job_def()
        failed = job.execute_in_process(
            instance=instance,
            asset_selection=[asset_keys.FUTURES.bars],
            partition_key=hour_key(START),
            raise_on_error=False,
        )
        assert not failed.success
        assert during == [before]
        assert read(settings, spark) == before

        # The operator sees the failed check, its numbers and the run's counts; nothing was materialized.
        evaluations = {item.check_name: item for item in failed.get_asset_check_evaluations()}
        assert [name for name, item in evaluations.items() if not item.passed and item.blocking] == ["drop_ratio"]
        assert "30 of 90 trades dropped (33.33%)" in str(evaluations["drop_ratio"].description)
        assert failed.asset_materializations_for_node(asset_keys.FUTURES.bars.to_python_identifier()) == []
        assert instance.get_latest_materialization_event(asset_keys.FUTURES.bars) is None
        assert (
            dg.evaluate_automation_conditions(build_definitions(), instance).get_num_requested(asset_keys.FUTURES.daily)
            == 0
        )
    recorded = run_sql(
        settings,
        "SELECT rows_dropped, rows_written, passed, snapshot FROM cryptolake.ops.run_metrics "
        f"WHERE run_id = '{failed.run_id}'",
    ).to_pylist()
    assert recorded == [{"rows_dropped": 30, "rows_written": 0, "passed": False, "snapshot": None}]
