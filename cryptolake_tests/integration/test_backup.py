"""A home that is backed up during a replay, deleted, restored at another path, and resumes there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from cryptolake_assets.bronze.offsets import bronze_lag, committed_offsets
from cryptolake_assets.definitions import build_definitions
from cryptolake_assets.defs.follower import tick
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.kafka.topics import end_offsets
from cryptolake_assets.lake.bronze_follower import FollowerState
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.markets import Family
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.backup import backup
from cryptolake_assets.platform.parts import BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from cryptolake_assets.platform.restore import restore
from cryptolake_assets.quality.reconciliation import Verdict
from cryptolake_assets.settings import Settings, get_settings
from cryptolake_tests.support.platforms import StartPlatform, settings_for, stop_spark_session
from cryptolake_tests.support.replaying import (
    FRAMES,
    SPEED,
    distinct_trades,
    replay,
    verdicts,
    wait_until_all_is_in_bronze,
)
from cryptolake_tests.support.run_requests import followed_by_runs, run_silver_request
from cryptolake_tests.support.waiting import wait_for

OFFSETS = """
SELECT kafka_partition, count(*) AS records, count(DISTINCT kafka_offset) AS distinct_offsets
FROM cryptolake.bronze.futures_trades GROUP BY kafka_partition
"""


@contextmanager
def dagster_instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Open Dagster's storage in the home, with the home's settings as those of this process."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(settings.dagster_home)) as instance:
        yield instance


def follow_once(settings: Settings, instance: dg.DagsterInstance) -> bool:
    """Evaluate the follower from its stored cursor and run its requests; return whether there were any."""
    result = tick(dg.build_sensor_context(instance=instance), Graph.of(settings), followed_by_runs(Family.FUTURES))
    requests = result.run_requests or [] if isinstance(result, dg.SensorResult) else []
    job = build_definitions().resolve_implicit_global_asset_job_def()
    for request in requests:
        assert run_silver_request(job, instance, request).success
    return bool(requests)


def cursor(settings: Settings) -> FollowerState:
    path = Path(settings.follower_location().removeprefix("file://"))
    state = FollowerState.from_cursor(path.read_text())
    assert state is not None
    return state


def runs(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


@pytest.mark.nightly
def test_restored_home_resumes_without_loss_or_duplicates(
    start_platform: StartPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"bronze_trigger_s": 1.0, "coverage_interval_s": 1.0, "silver_interval_s": 0.0}
    # Slow enough for a Silver run and a backup before the replay ends.
    first = settings_for(tmp_path / "first", replay_speed=SPEED / 3, **options)
    others = [KAFKA, SPARK, EXCHANGE, BRONZE]
    with start_platform(first, others, [*others, PRODUCER]):
        wait_for(lambda: replay(first)["frames_sent"] > FRAMES / 6 and bool(committed_offsets(first)), timeout_s=120)
        with dagster_instance(first, monkeypatch) as instance:
            assert follow_once(first, instance)
            known = runs(instance)
        manifest = backup(first, tmp_path / "copy")
        assert replay(first)["state"] == "running", "the replay ended before the backup"
        state = cursor(first)
        stop_spark_session()
        lifecycle.down(first)
    shutil.rmtree(first.home)

    second = settings_for(tmp_path / "moved to" / "second", replay_speed=SPEED, **options)
    restore(second, tmp_path / "copy")
    rows = {table.name: table.rows for table in manifest.tables}
    assert 0 < rows["bronze.futures_trades"] < FRAMES
    assert rows["silver.futures_ohlcv_1m"] > 0
    with start_platform(second, [KAFKA, SPARK, BRONZE]):
        # Bronze ingests the records it lacks, and none twice.
        wait_for(lambda: bronze_lag(second) == 0, timeout_s=120)
        found = run_sql(second, OFFSETS).to_pylist()
        assert {row["kafka_partition"]: row["records"] for row in found} == {
            number: end for number, end in end_offsets(second, second.kafka_topic_futures).items() if end
        }
        assert all(row["records"] == row["distinct_offsets"] for row in found)
        assert sum(row["records"] for row in found) >= rows["bronze.futures_trades"]

        lifecycle.up(second, [EXCHANGE, PRODUCER])
        wait_until_all_is_in_bronze(second)
        assert distinct_trades(second) == FRAMES
        with dagster_instance(second, monkeypatch) as instance:
            assert runs(instance) == known
            assert (cursor(second).epoch, cursor(second).sequence) == (state.epoch, state.sequence)
            assert follow_once(second, instance)
            while follow_once(second, instance):
                pass
            assert cursor(second).sequence > state.sequence
        bars = run_sql(second, "SELECT * FROM cryptolake.silver.futures_ohlcv_1m").to_pylist()
        assert len({(bar["symbol"], bar["window_start"]) for bar in bars}) == len(bars)
        verdict = verdicts(second, bars)
        assert verdict.count(Verdict.EQUAL) == 14
        assert verdict.count(Verdict.INCOMPLETE) == len(bars) - 14 == 4
