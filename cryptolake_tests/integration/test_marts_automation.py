"""Number of requested mart runs over simulated time on an ephemeral instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest

from cryptolake_assets.definitions import build_definitions as build_main
from cryptolake_assets.defs import asset_keys
from cryptolake_assets.defs.automation import VERSION_TAG
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.marts_definitions import build_definitions
from cryptolake_assets.settings import Settings, load_settings

TICK = timedelta(seconds=30)
BARS = dg.AssetKey(["marts", "ohlcv_5m"])
RETURNS = dg.AssetKey(["marts", "daily_returns"])
OVERVIEW = dg.AssetKey(["marts", "market_overview"])
OPEN_DAY = datetime(2024, 10, 5, tzinfo=UTC)
CLOSED_DAY = OPEN_DAY - timedelta(days=3)


def all_definitions(settings: Settings | None = None) -> dg.Definitions:
    """Return the definitions of both code locations, as the daemon sees them."""
    main, marts = build_main(settings), build_definitions(settings)
    return dg.Definitions(
        assets=[*(main.assets or ()), *(marts.assets or ())],
        resources={**(main.resources or {}), **(marts.resources or {})},
    )


class Simulation:
    """Simulated ticks of the marts' automation; requested runs succeed before the next tick."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        now: datetime,
        key: dg.AssetKey = BARS,
        settings: Settings | None = None,
    ) -> None:
        self.instance, self.now, self.key = instance, now, key
        self.definitions = all_definitions(settings)
        self.cursor: dg.AutomationConditionCursor | None = None
        self.requests: list[tuple[datetime, str | None]] = []
        self.tick()

    def tick(self) -> None:
        result = dg.evaluate_automation_conditions(
            self.definitions,
            self.instance,
            asset_selection=dg.AssetSelection.assets(self.key),
            evaluation_time=self.now,
            cursor=self.cursor,
        )
        self.cursor = result.cursor
        for partition in result.get_requested_partitions(self.key):
            self.requests.append((self.now, partition))
            self.instance.report_runless_asset_event(dg.AssetMaterialization(self.key, partition=partition))
        self.now += TICK

    def run(self, length: timedelta, every: timedelta | None = None, hour: datetime | None = None) -> None:
        """Advance time by `length`; publish an hour of Silver (default: the current one) every `every`."""
        end, due = self.now + length, self.now
        while self.now < end:
            if every is not None and self.now >= due:
                self.publish(hour or self.now)
                due += every
            self.tick()

    def publish(self, hour: datetime, version: str = "") -> None:
        """Report changed Silver bars of an hour, unless `version` equals the last one."""
        self.report(asset_keys.FUTURES.bars, hour_key(hour.replace(minute=0, second=0)), version)

    def report(self, key: dg.AssetKey, partition: str, version: str = "") -> None:
        tags = {VERSION_TAG: version or uuid4().hex}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, tags=tags))

    def judge(self, hour: datetime, passed: bool) -> None:
        """Report a blocking check of an hour, from a separate run."""
        evaluation = dg.AssetCheckEvaluation(
            asset_key=asset_keys.FUTURES.bars,
            check_name="drop_ratio",
            passed=passed,
            blocking=True,
            partition=hour_key(hour.replace(minute=0, second=0)),
        )
        event = dg.DagsterEvent(
            dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, "judge", event_specific_data=evaluation
        )
        self.instance.report_dagster_event(event, run_id=str(uuid4()))

    @property
    def counted(self) -> Counter[str | None]:
        """Return the number of requests per partition."""
        return Counter(partition for _, partition in self.requests)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def test_open_day_runs_every_quarter_hour(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7))
    simulation.run(timedelta(minutes=46), every=timedelta(seconds=60))
    day = OPEN_DAY.date().isoformat()
    assert simulation.counted == {day: 3}, "at 10:15, 10:30 and 10:45"
    assert [moment.minute // 15 for moment, _ in simulation.requests] == [1, 2, 3]


def test_overview_runs_soon_at_first_and_then_every_quarter_hour(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7), OVERVIEW)
    simulation.publish(simulation.now)
    simulation.run(timedelta(minutes=4))
    assert simulation.counted == {None: 1}
    simulation.run(timedelta(minutes=26), every=timedelta(seconds=60))
    assert simulation.counted == {None: 3}, "then at 10:15 and 10:30"


def test_no_update_requests_no_run(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7))
    simulation.publish(simulation.now)
    simulation.run(timedelta(minutes=15))
    assert len(simulation.requests) == 1
    simulation.run(timedelta(minutes=16))
    assert len(simulation.requests) == 1


def test_silver_run_without_changes_requests_no_run(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7))
    simulation.publish(CLOSED_DAY, version="1")
    simulation.run(timedelta(minutes=15))
    assert len(simulation.requests) == 1
    simulation.publish(CLOSED_DAY, version="1")
    simulation.run(timedelta(minutes=31))
    assert len(simulation.requests) == 1
    simulation.publish(CLOSED_DAY, version="2")
    simulation.run(timedelta(minutes=31))
    assert len(simulation.requests) == 2


def test_day_that_closes_runs_once_more_within_minutes(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=23, minute=50, second=7))
    last_hour = OPEN_DAY.replace(hour=23)
    simulation.run(timedelta(minutes=11), every=timedelta(seconds=60), hour=last_hour)
    closed = simulation.now
    simulation.run(timedelta(minutes=14))
    day = OPEN_DAY.date().isoformat()
    after = [moment for moment, partition in simulation.requests if partition == day]
    assert 1 <= len(after) <= 2, "possibly at midnight, and once after the last change"
    assert after[-1] - closed < timedelta(minutes=4)


def test_late_trade_of_an_old_day_runs_that_day_once(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7))
    simulation.publish(CLOSED_DAY)
    simulation.run(timedelta(minutes=10))
    assert simulation.counted == {CLOSED_DAY.date().isoformat(): 1}
    assert simulation.requests[0][0] - OPEN_DAY.replace(hour=10, minute=1) < timedelta(minutes=4)


def test_replay_of_an_old_day_runs_it_every_quarter_hour(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7))
    simulation.run(timedelta(minutes=35), every=TICK, hour=CLOSED_DAY)
    assert simulation.counted == {CLOSED_DAY.date().isoformat(): 2}, "at 10:15 and 10:30"
    simulation.run(timedelta(minutes=5))
    assert simulation.counted == {CLOSED_DAY.date().isoformat(): 3}, "and once after the last change"


def test_day_waits_while_a_blocking_check_of_one_of_its_hours_fails(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7))
    other_day = CLOSED_DAY - timedelta(days=1)
    simulation.judge(CLOSED_DAY, passed=False)
    simulation.publish(CLOSED_DAY + timedelta(hours=5))
    simulation.publish(other_day)
    simulation.run(timedelta(minutes=20))
    assert simulation.counted == {other_day.date().isoformat(): 1}
    simulation.judge(CLOSED_DAY, passed=True)
    simulation.run(timedelta(minutes=20))
    assert simulation.counted == {other_day.date().isoformat(): 1, CLOSED_DAY.date().isoformat(): 1}


def test_returns_follow_gold(instance: dg.DagsterInstance) -> None:
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7), RETURNS)
    day = CLOSED_DAY.date().isoformat()
    simulation.report(asset_keys.FUTURES.daily, day)
    simulation.run(timedelta(minutes=5))
    assert simulation.counted == {day: 1}


def test_update_of_either_family_requests_its_day(instance: dg.DagsterInstance) -> None:
    settings = load_settings(markets="usdm,spot", source="binance", start_date=str(CLOSED_DAY.date()))
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7), settings=settings)
    for day, keys in ((CLOSED_DAY, asset_keys.FUTURES), (CLOSED_DAY + timedelta(days=1), asset_keys.SPOT)):
        simulation.report(keys.bars, hour_key(day))
    simulation.run(timedelta(minutes=10))
    assert simulation.counted == {str(CLOSED_DAY.date()): 1, str(CLOSED_DAY.date() + timedelta(days=1)): 1}


def test_failed_run_is_requested_again(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_REMOTE", "sc://127.0.0.1:1")
    simulation = Simulation(instance, OPEN_DAY.replace(hour=10, minute=1, second=7))
    job = build_definitions().resolve_implicit_global_asset_job_def()
    day = CLOSED_DAY.date().isoformat()
    failed = job.execute_in_process(instance=instance, asset_selection=[BARS], partition_key=day, raise_on_error=False)
    assert not failed.success
    message = str(failed.get_step_failure_events()[0].step_failure_data.error)
    assert "the Spark Connect server at sc://127.0.0.1:1 cannot be reached" in message
    simulation.run(timedelta(minutes=30))
    assert simulation.counted == {day: 1}, "at the next quarter hour, and not again after its success"


def test_simulation_covers_both_code_locations() -> None:
    assets = [asset for asset in all_definitions().assets or () if isinstance(asset, dg.AssetsDefinition)]
    assert {BARS, RETURNS, OVERVIEW, asset_keys.FUTURES.bars, asset_keys.FUTURES.daily} <= {
        key for one in assets for key in one.keys
    }
