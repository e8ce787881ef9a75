"""SIGKILL of the producer during a replay: the trades sent meanwhile are visible as missing.

Kills of the broker, Spark and the Bronze stream, which lose nothing, are in test_stream_health.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import gaps_of
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.platform.parts import BRONZE, EXCHANGE, KAFKA, PRODUCER, SPARK
from cryptolake_assets.quality.reconciliation import Verdict
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.replaying import (
    FRAMES,
    SPEED,
    distinct_trades,
    kill,
    refreshed_bars,
    replay,
    verdicts,
    wait_until_all_is_in_bronze,
)
from cryptolake_tests.support.waiting import wait_for


@pytest.fixture
def replaying(start_platform: StartPlatform, tmp_path: Path) -> Iterator[Settings]:
    """A platform that has replayed about a third of the shipped capture."""
    settings = settings_for(tmp_path, replay_speed=SPEED, bronze_trigger_s=2.0, coverage_interval_s=1.0)
    # The replay starts with the first subscription, so start everything else before.
    others = [KAFKA, SPARK, EXCHANGE, BRONZE]
    with start_platform(settings, others, [*others, PRODUCER]):
        wait_for(lambda: replay(settings)["frames_sent"] > FRAMES / 3, timeout_s=120)
        yield settings


@pytest.mark.nightly
def test_killed_producer_leaves_a_visible_gap(replaying: Settings) -> None:
    kill(replaying, PRODUCER)
    wait_until_all_is_in_bronze(replaying)
    bars = refreshed_bars(replaying)
    found = verdicts(replaying, bars)
    assert distinct_trades(replaying) < FRAMES
    assert Verdict.DIFFERS not in found
    equal = found.count(Verdict.EQUAL)
    assert 6 <= equal < 14, "the minutes of the crash are incomplete, the others exact"
    assert len({(bar["symbol"], bar["window_start"]) for bar in bars}) == len(bars)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        gaps = [gap for gap in gaps_of(load_table(replaying, OPS_COVERAGE)) if gap.symbol == symbol]
        assert len(gaps) == 1, "coverage shows the gap between the two connections"
