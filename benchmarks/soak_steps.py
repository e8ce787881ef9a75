"""Steps of part `soak`, each in a separate process: simulate a lake's days, and time what runs all day on two lakes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import lakes, soak_lake
from benchmarks.runner import progress
from benchmarks.steps import main
from benchmarks.trades import DAY_MS, HOUR_MS

if TYPE_CHECKING:
    import dagster as dg

    from cryptolake_assets.defs.graph import Graph
    from cryptolake_assets.settings import Settings

ROUND_MS = 5_000
WARM_UP = 2


def lake(home: str, symbols: int, first_ms: int, days: int, seed: int, clock_url: str) -> None:
    """Create the lake of `days` days, and a Dagster instance with their partitions."""
    from benchmarks import soak_dagster
    from cryptolake_assets.defs.partitions import GraphPartitions

    soak_lake.simulate(Path(home), symbols, first_ms, days, seed, clock_url)
    settings = soak_lake.settings_of(Path(home), symbols, first_ms, clock_url)
    hours = days * DAY_MS // HOUR_MS
    soak_dagster.make_history(settings, GraphPartitions.of(settings), _moment(first_ms), hours)


def measure(homes: dict[str, str], symbols: int, end_ms: int, clock_url: str, rounds: int) -> dict[str, Any]:
    """Time each step on each lake in turn; return median seconds by step and number of days."""
    measured = {days: Lake(Path(home), symbols, end_ms, int(days), clock_url) for days, home in homes.items()}
    steps = list(next(iter(measured.values())).steps)
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {step: {days: [] for days in homes} for step in steps}
    for number in range(rounds + WARM_UP):
        for step, by_days in taken.items():
            for days, one in measured.items():
                prepare, run = one.steps[step]
                prepare(number)
                started, cpu_started = time.perf_counter(), time.process_time()
                run(number)
                if number >= WARM_UP:
                    by_days[days].append((time.perf_counter() - started, time.process_time() - cpu_started))
        progress((number + 1) / (rounds + WARM_UP))
    seconds, cpu_seconds = (
        {
            step: {days: round(statistics.median(pair[kind] for pair in pairs), 5) for days, pairs in by_days.items()}
            for step, by_days in taken.items()
        }
        for kind in (0, 1)
    )
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "sizes": {days: one.sizes() for days, one in measured.items()},
    }


def _nothing(_: int) -> None:
    """Prepare nothing."""


Step = tuple[Callable[[int], object], Callable[[int], object]]  # untimed preparation and timed run, of a round


@dataclass
class Lake:
    """A simulated lake at the end of its days, and the steps that run on it."""

    home: Path
    symbols: int
    end_ms: int
    days: int
    clock_url: str
    cursor: str | None = None
    sequence: int = 0
    automation: dg.AutomationConditionCursor | None = None

    @cached_property
    def steps(self) -> dict[str, Step]:
        return {
            "coverage write": (_nothing, self._write_coverage),
            "coverage read": (_nothing, self._read_coverage),
            "gap ledger write": (_nothing, self._write_gap),
            "follower tick": (self._append, self._tick),
            "quarantine": (self._append_broken, self._quarantine),
            "Silver refresh": (self._append, self._refresh),
            "API status": (self._open_api, self._api_status),
            "compaction plan": (_nothing, self._plan_compaction),
            "snapshot expiry": (_nothing, self._expire),
            "Dagster run": (_nothing, self._dagster_run),
            "Dagster automation": (_nothing, self._dagster_automation),
            "Dagster partitions": (_nothing, self._dagster_partitions),
        }

    @cached_property
    def settings(self) -> Settings:
        return soak_lake.settings_of(self.home, self.symbols, self.end_ms - self.days * DAY_MS, self.clock_url)

    @property
    def _hour(self) -> datetime:
        return _moment(self.end_ms - HOUR_MS)

    def sizes(self) -> dict[str, int]:
        """Return what the lake holds."""
        from cryptolake_assets.lake.coverage import read_coverage
        from cryptolake_assets.lake.gap_ledger import read_gaps
        from cryptolake_assets.lake.maintenance.layout import live_files
        from cryptolake_assets.model.family_tables import FUTURES

        bronze = lakes.bronze(self.settings)
        return {
            "coverage_rows": len(read_coverage(self.settings)),
            "gaps": len(read_gaps(self.settings)),
            "bronze_files": len(live_files(bronze)),
            "bronze_manifests": len(lakes.manifests(bronze)),
            "silver_manifests": len(lakes.manifests(soak_lake.table_of(self.settings, FUTURES.bars))),
        }

    # Coverage and gaps.

    def _write_coverage(self, number: int) -> None:
        from cryptolake_assets.lake.coverage import IcebergCoverageSink
        from cryptolake_assets.model.coverage_rows import Evidence

        end_ms, offset = self.end_ms + (number + 1) * ROUND_MS, 10**9 + number
        IcebergCoverageSink(self.settings).write(
            [
                soak_lake.claim(symbol, end_ms - ROUND_MS - 62_000, end_ms - lag_ms, index % 4, offset, evidence)
                for index, symbol in enumerate(self.settings.symbols)
                for evidence, lag_ms in ((Evidence.IDS, 400), (Evidence.BARRIER, 0))
            ]
        )

    def _read_coverage(self, _: int) -> None:
        from cryptolake_assets.lake.coverage import read_coverage_of
        from cryptolake_assets.model.markets import USD_M

        end = _moment(self.end_ms)
        read_coverage_of(self.settings, [USD_M.exchange], end - timedelta(hours=1), end)

    def _write_gap(self, number: int) -> None:
        from cryptolake_assets.lake.gap_ledger import IcebergGapSink

        found = soak_lake.gap(self.settings.symbols[0], 10**6 + number, self.end_ms, closed=number % 2 == 1)
        IcebergGapSink(self.settings).write([found])

    # Bronze to Silver.

    def _append(self, number: int) -> None:
        self.sequence = soak_lake.append_trades(
            self.settings, self.end_ms - HOUR_MS // 2, 10**6 + time.monotonic_ns(), str(101 + number)
        )

    def _append_broken(self, _: int) -> None:
        # In the hour before the refreshed one, whose bars would fail their check of the share of dropped trades.
        soak_lake.append_trades(self.settings, self.end_ms - 3 * HOUR_MS // 2, 10**6 + time.monotonic_ns(), "0")

    def _tick(self, _: int) -> None:
        import dagster as dg

        from cryptolake_assets.defs import follower, silver
        from cryptolake_assets.model.markets import Family

        with dg.build_sensor_context(self.instance, cursor=self.cursor) as context:
            result = follower.tick(context, self.graph, silver.followed(Family.FUTURES))
        assert isinstance(result, dg.SensorResult)
        assert result.cursor is not None
        self.cursor = _all_done(result.cursor)

    def _quarantine(self, _: int) -> None:
        from cryptolake_assets.transform.load_inputs import load_run_inputs
        from cryptolake_assets.transform.quarantine import advance_quarantine

        rules = load_run_inputs(self.settings, self._hour, self._hour + timedelta(hours=1)).rules
        assert advance_quarantine(self.settings, lakes.bronze(self.settings), rules, "soak") == len(
            self.settings.symbols
        )

    def _refresh(self, _: int) -> None:
        soak_lake.refresh(self.settings, self._hour, self.sequence)

    # The API.

    @cached_property
    def reader(self) -> Any:
        from cryptolake_assets.api.page_reader import Reader

        return Reader(self.settings)

    def _open_api(self, number: int) -> None:
        if not number:
            self._api_status(number)

    def _api_status(self, _: int) -> None:
        """Do what the API does after a commit of Silver: reload the table, answer `/health` and `/metrics`."""
        from cryptolake_assets.api.health_routes import DEPENDENCIES, LakeCollector

        self.reader.table_cache.refresh()
        assert [one.problem(self.settings, self.reader) for one in DEPENDENCIES if one.required] == [None, None]
        assert list(LakeCollector(self.reader).collect())
        assert len(self.reader.spans()) == len(self.settings.symbols)

    # Maintenance.

    def _plan_compaction(self, _: int) -> None:
        from cryptolake_assets.lake.maintenance.tasks import StreamPosition, Task, maintain

        # Nothing is due, so Spark is not needed: by this clock the hour is open, and the limit is out of reach.
        settings = self.settings.model_copy(update={"compaction_min_files": 10**6})
        assert maintain(settings, Task.COMPACTION, StreamPosition(self._hour)).changed == []

    def _expire(self, _: int) -> None:
        from cryptolake_assets.lake.maintenance.tasks import StreamPosition, Task, maintain

        update = {"snapshot_retention_s": 0, "snapshots_kept": soak_lake.SNAPSHOTS + soak_lake.MICRO_BATCHES}
        assert maintain(self.settings.model_copy(update=update), Task.SNAPSHOTS, StreamPosition(None)).changed

    # Dagster.

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        from benchmarks import soak_dagster

        return soak_dagster.open_instance(self.settings)

    @cached_property
    def graph(self) -> Graph:
        from cryptolake_assets.defs.graph import Graph

        return Graph.of(self.settings)

    @cached_property
    def definitions(self) -> dg.Definitions:
        from cryptolake_assets.definitions import build_definitions

        return build_definitions(self.settings)

    def _dagster_run(self, _: int) -> None:
        from benchmarks import soak_dagster

        soak_dagster.report_bronze(self.instance, self._hour)
        soak_dagster.run_silver(self.instance, self.graph.partitions, self._hour)

    def _dagster_automation(self, _: int) -> None:
        import dagster as dg

        found = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.automation)
        self.automation = found.cursor

    def _dagster_partitions(self, _: int) -> None:
        from benchmarks import soak_dagster

        assert soak_dagster.partition_status(self.instance, self.graph.partitions) == self.days * DAY_MS // HOUR_MS


def _all_done(cursor: str) -> str:
    """Return the follower's cursor as after successful runs of all pending hours."""
    from cryptolake_assets.lake.bronze_follower import FollowerState

    state = FollowerState.from_cursor(cursor)
    assert state is not None
    assert state.pending
    state.pending.clear()
    state.asked.clear()
    state.reported.clear()
    state.unreported.clear()
    return state.to_cursor()


def _moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


STEPS: dict[str, Callable[..., Any]] = {"lake": lake, "measure": measure}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
