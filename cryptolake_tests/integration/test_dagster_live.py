"""Dagster's webserver and daemon as they run on a machine, driven over GraphQL; the lake alone, on DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cryptolake_assets.defs import gold, silver
from cryptolake_assets.defs.partitions import hour_key
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.graphql import ask
from cryptolake_assets.platform.parts import DAGSTER_PARTS
from cryptolake_assets.settings import Settings
from cryptolake_tests.reference import Trade, reference_bars
from cryptolake_tests.waiting import wait_for

from .bronze import append, bars, trade
from .conftest import settings_for

FIRST = datetime(2024, 11, 10, tzinfo=UTC)
DAYS = 2
HOURS = [FIRST + timedelta(hours=number) for number in range(24 * DAYS)]
WITH_TRADES = HOURS[5::12]

LAUNCH = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
BACKFILL = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
    __typename ... on PartitionBackfill { status } ... on PythonError { message } } }
"""
RUNS = """
query ($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results { runId status } } } }
"""
MATERIALIZED = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    partitionStats { numMaterialized numFailed } } } }
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, list[Trade]]]:
    """Webserver and daemon over a lake whose Bronze holds trades of two days."""
    settings = settings_for(tmp_path_factory.mktemp("dagster"))
    bootstrap(settings)
    trades = [
        trade(hour + timedelta(minutes=7 * n), 100 * k + n) for k, hour in enumerate(WITH_TRADES) for n in range(8)
    ]
    append(settings, trades)
    try:
        lifecycle.up(settings, DAGSTER_PARTS)
        yield settings, trades
    finally:
        lifecycle.down(settings)


def stats(settings: Settings, path: Sequence[str]) -> dict[str, int]:
    node: dict[str, Any] = ask(settings, MATERIALIZED, {"key": {"path": path}})["assetNodeOrError"]
    return dict(node["partitionStats"])


def test_a_backfill_beside_the_follower(live: tuple[Settings, list[Trade]]) -> None:
    settings, trades = live
    answer = ask(
        settings,
        LAUNCH,
        {"params": {"assetSelection": [{"path": silver.KEY.path}], "partitionNames": [hour_key(one) for one in HOURS]}},
    )["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    backfill = answer["backfillId"]

    def status() -> str:
        return str(ask(settings, BACKFILL, {"id": backfill})["partitionBackfillOrError"]["status"])

    wait_for(lambda: status() not in ("REQUESTED", "COMPLETING"), timeout_s=240)
    assert status() == "COMPLETED_SUCCESS"
    tags = {"tags": [{"key": "dagster/backfill", "value": backfill}]}
    runs = ask(settings, RUNS, {"filter": tags})["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"] * DAYS, "one run a day"

    # The follower saw the same trades, and Gold follows by itself.
    wait_for(lambda: stats(settings, gold.KEY.path)["numMaterialized"] == DAYS, timeout_s=180)
    assert stats(settings, silver.KEY.path) == {"numMaterialized": len(HOURS), "numFailed": 0}
    got = bars(settings, FIRST, hours=len(HOURS))
    assert {key: bar["trades"] for key, bar in got.items()} == {
        key: bar["trades"] for key, bar in reference_bars(trades).items()
    }
