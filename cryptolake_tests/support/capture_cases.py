"""Captures of `data/cases`, replayed to their end on a platform: the resulting lake and the expected bars."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptolake_assets.bronze.offsets import bronze_lag
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.cli.demo import unsettled_frames
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.platform.parts import BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from cryptolake_assets.platform.status import problems
from cryptolake_assets.producer.status_file import ProducerStatus, read_status
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine
from cryptolake_tests.support.bronze import bars
from cryptolake_tests.support.replaying import replay
from cryptolake_tests.support.silver_runs import rebuild
from cryptolake_tests.support.waiting import wait_for, wait_for_value

CASES = Path(__file__).parents[1] / "data" / "cases"
PARTS = (KAFKA, SPARK, EXCHANGE, PRODUCER, BRONZE)
Bar = dict[str, Any]
Row = dict[str, Any]


@dataclass
class Replayed:
    """A platform that has replayed a capture to its end."""

    settings: Settings
    producer: ProducerStatus
    problems: list[str]
    """Lines of `cryptolake health` about the running parts."""

    def bars(self, day: str, first_hour: int, hours: int = 1) -> dict[tuple[str, str], Bar]:
        """Rebuild Silver's hours; return the bars by symbol and minute."""
        start = datetime.fromisoformat(f"{day}T{first_hour:02}:00:00+00:00")
        made = rebuild(self.settings, DuckDBEngine(self.settings), start, start + timedelta(hours=hours))
        assert [(candidate.hour, candidate.passed) for candidate in made] == [
            (start + timedelta(hours=number), True) for number in range(hours)
        ]
        return {(symbol, f"{at:%H:%M}"): bar for (_, symbol, at), bar in bars(self.settings, start, hours).items()}

    def rows(self, query: str) -> list[Row]:
        found: list[Row] = run_sql(self.settings, query).to_pylist()
        return found

    def wait_for(self, query: str, value: int) -> None:
        """Wait until a query returns this number: each extra stream has its own Bronze query."""
        wait_for_value(lambda: next(iter(self.rows(query)[0].values())), value, timeout_s=60)

    def dead_letters(self) -> dict[tuple[str, int], str]:
        """Return the reason code of each rejected trade, by symbol and id."""
        found = {}
        for row in self.rows(f"SELECT raw, reason FROM {self.settings.tables.rejected.full_name}"):
            trade = json.loads(row["raw"])["data"]
            found[trade["s"], trade["t"]] = row["reason"].partition(":")[0]
        return found


def expected(case: str) -> dict[tuple[str, str], Bar]:
    """Return the expected bars of a case by symbol and minute."""
    found = {}
    names = ("open", "high", "low", "close", "volume", "quote_volume")
    for symbol, minute, *numbers, trades in json.loads((CASES / case / "expected.json").read_text()):
        bar = dict(zip(names, map(Decimal, numbers), strict=True))
        found[symbol, minute[11:16]] = {**bar, "trades": trades}
    return found


def with_columns_of(bars: dict[tuple[str, str], Bar], like: dict[tuple[str, str], Bar]) -> dict[tuple[str, str], Bar]:
    """Return the bars with only the columns of the expected ones."""
    return {key: {name: bar[name] for name in next(iter(like.values()))} for key, bar in bars.items()}


def wait_until_replayed(settings: Settings) -> Replayed:
    """Wait until the capture is replayed to its end and Bronze holds all of it."""
    wait_for(lambda: replay(settings)["state"] == "finished", timeout_s=120)
    wait_for(lambda: _is_settled(settings), timeout_s=60)
    end_ms = replay(settings)["last_event_time_ms"]
    symbols = set(resolve_subscriptions(settings).symbols)
    wait_for(
        lambda: symbols <= {row.symbol for row in read_coverage(settings) if row.connected_to_ms >= end_ms},
        timeout_s=60,
    )
    wait_for(lambda: bronze_lag(settings) == 0, timeout_s=120)
    wait_for(lambda: _rejected_rows(settings) >= sum(counts.rejected for counts in _status(settings).streams.values()))
    found = [problem for problem in problems(settings) if problem.startswith(tuple(f"{part}:" for part in PARTS))]
    return Replayed(settings, _status(settings), found)


def _status(settings: Settings) -> ProducerStatus:
    status = read_status(settings)
    assert status is not None
    return status


def _is_settled(settings: Settings) -> bool:
    producer = _status(settings)
    short = unsettled_frames(replay(settings)["frames_sent_by_kind"], producer.streams)
    return not (short or producer.queued_frames or producer.in_flight)


def _rejected_rows(settings: Settings) -> int:
    rows = run_sql(settings, f"SELECT count(*) AS n FROM {settings.tables.rejected.full_name}").to_pylist()
    return int(rows[0]["n"])
