"""kill -9 of the producer in the middle of a replay: what was sent meanwhile is visible as missing.

Kills of the broker, of Spark and of the Bronze stream, which lose nothing: test_stream_health.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cryptolake_assets.lake.coverage import read_coverage
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
    """A platform that replays the shipped capture and is about a third through it."""
    settings = settings_for(tmp_path, replay_speed=SPEED, bronze_trigger_s=2.0, coverage_interval_s=1.0)
    # The replay begins with the first subscription: everything else is up by then.
    others = [KAFKA, SPARK, EXCHANGE, BRONZE]
    with start_platform(settings, others, [*others, PRODUCER]):
        wait_for(lambda: replay(settings)["frames_sent"] > FRAMES / 3, timeout_s=120)
        yield settings


def test_the_producer_is_killed_and_what_was_sent_meanwhile_is_visible_as_missing(replaying: Settings) -> None:
    kill(replaying, PRODUCER)
    wait_until_all_is_in_bronze(replaying)
    bars = refreshed_bars(replaying)
    found = verdicts(replaying, bars)
    assert distinct_trades(replaying) < FRAMES
    assert Verdict.DIFFERS not in found
    equal = found.count(Verdict.EQUAL)
    assert 6 <= equal < 14, "the minutes of the crash are incomplete, the others are exact"
    assert len({(bar["symbol"], bar["window_start"]) for bar in bars}) == len(bars)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        rows = [row for row in read_coverage(replaying) if row.symbol == symbol]
        before, after = sorted((row.connected_from_ms, row.connected_to_ms) for row in rows)
        assert before[1] < after[0], "the hole between the two connections is to be seen"
