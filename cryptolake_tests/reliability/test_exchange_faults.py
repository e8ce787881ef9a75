"""The drills' faults of the exchange and loads, without a platform."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cryptolake_assets.model.replay_faults import parse_faults
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import serving
from cryptolake_tests.support.waiting import wait_for
from reliability.drills import exchange_faults
from reliability.drills.actions import Action
from reliability.drills.client_load import ClientLoad
from reliability.drills.feed import Burst, Feed, write_feed
from reliability.drills.load_faults import OverloadedError, PeakMemory

SWITCHED = [action for action in exchange_faults.ACTIONS if action.name != "symbol_change"]


class SwitchBoard:
    """Records the faults as the replay exchange would receive them."""

    def __init__(self) -> None:
        self.on: list[str] = []

    def switch_faults(self, *faults: dict[str, Any]) -> None:
        parse_faults(json.dumps(faults))
        self.on += [str(fault["kind"]) for fault in faults]

    def end_faults(self, kind: str) -> None:
        self.on.remove(kind)


@pytest.mark.parametrize("action", SWITCHED, ids=lambda action: str(action.name))
@pytest.mark.parametrize("seed", range(20))
def test_drawn_faults_are_known_to_the_replay_exchange_and_end(action: Action, seed: int) -> None:
    board: Any = SwitchBoard()
    with action.fault(board, {"part": "", "lasts_s": 3.0, **action.draw(Random(seed))}):  # noqa: S311
        assert board.on[-1] == action.name
    assert board.on == []


def test_burst_has_a_rate_of_its_own(tmp_path: Path) -> None:
    emitted = write_feed(Feed(1, 20, per_s=(1, 1), bursts=(Burst(5, 8, 100),)), tmp_path / "capture")
    assert len(emitted.order) == 17 + 300


def test_slow_and_deaf_clients_do_not_delay_another_one(bars: Settings) -> None:
    with serving(bars) as api:
        with ClientLoad(api.url, "BTCUSDT", exports=5, deaf=6, readers=2) as load:
            time.sleep(1.5)
        assert load.latencies_s
        assert load.failures == []
        wait_for(lambda: not api.connections())


def test_growth_of_memory_is_bounded() -> None:
    memory = PeakMemory({"own": []})
    memory.peak["own"] = 3
    memory.check(3)
    with pytest.raises(OverloadedError, match="memory of own"):
        memory.check(2)
