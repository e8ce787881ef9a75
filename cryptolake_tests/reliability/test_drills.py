"""The drills' framework without a platform: drawing, lists of actions, the feed, recovery times, states."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.reader import read_frames, read_klines
from cryptolake_assets.errors import ArgumentError
from cryptolake_assets.settings import load_settings
from cryptolake_tests.support.reference import reference_bars
from reliability import results
from reliability.drills import states
from reliability.drills.actions import (
    PART,
    Action,
    Drawer,
    Fault,
    Parameters,
    Probe,
    Round,
    parse_rounds,
    rounds_text,
    selected,
)
from reliability.drills.catalogue import SCENARIOS
from reliability.drills.drilled_platform import DrilledPlatform
from reliability.drills.feed import FIRST_ID, Feed, write_feed
from reliability.drills.oracle import BrokenPromiseError, Compared, Oracle
from reliability.drills.runner import Drill, Recorder, drilled_before

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@contextmanager
def nothing(_platform: DrilledPlatform, _parameters: Parameters) -> Iterator[None]:
    yield


def at_once(_platform: DrilledPlatform, _parameters: Parameters) -> Probe:
    return lambda: True


def action(name: str, **changes: Any) -> Action:
    return Action(**{"name": name, "fault": nothing, "probe": at_once, **changes})


KILL = action("kill", parts=("broker", "stream", "api"), needs=frozenset({PART}))
PAUSE = action(
    "pause",
    parts=("broker", "stream"),
    needs=frozenset({PART}),
    withholds=frozenset({PART}),
    lasts_s=(1.0, 60.0),
    draw=lambda draw: {"deep": draw.randint(1, 3)},
)
REISSUE = action("reissue", needs=frozenset({"day"}))
ALL_UP = frozenset({"broker", "stream", "api"})


def drawn(seed: int, rounds: int, actions: tuple[Action, ...] = (KILL, PAUSE), **changes: Any) -> list[Round]:
    drawer = Drawer(actions, seed, changes.get("drilled", {}), changes.get("longest_s", 30.0))
    return [drawer.next_round(changes.get("capabilities", ALL_UP)) for _ in range(rounds)]


def test_a_seed_draws_the_same_rounds_and_another_one_different_rounds() -> None:
    assert drawn(7, 20) == drawn(7, 20)
    assert drawn(7, 20) != drawn(8, 20)


def test_rounds_are_repeated_from_their_text() -> None:
    rounds = drawn(3, 10)
    assert parse_rounds(rounds_text(rounds), (KILL, PAUSE)) == rounds
    with pytest.raises(ArgumentError, match="kill of disk is not an action"):
        parse_rounds("kill:part=disk,at_s=1", (KILL,))


def test_actions_are_drawn_only_when_their_needs_hold() -> None:
    rounds = drawn(1, 60, capabilities=frozenset({"stream"}))
    assert {fault.part for faults in rounds for fault in faults} == {"stream"}
    assert drawn(1, 3, (REISSUE,)) == [(), (), ()]
    assert all(drawn(1, 3, (REISSUE,), capabilities=frozenset({"day"})))


def test_faults_that_overlap_do_not_rely_on_a_withheld_part() -> None:
    for faults in drawn(5, 200):
        for pause in (fault for fault in faults if fault.action == "pause"):
            during = [
                one
                for one in faults
                if one is not pause and pause.at_s <= one.at_s <= pause.at_s + pause.lasts_s and one.part == pause.part
            ]
            assert during == [] or all(one.at_s == pause.at_s for one in during)


def test_no_fault_lasts_longer_than_the_run_allows() -> None:
    lasts = [fault.lasts_s for faults in drawn(2, 200, longest_s=5.0) for fault in faults if fault.action == "pause"]
    assert lasts
    assert 1.0 <= min(lasts) <= max(lasts) <= 5.0


def test_the_least_drilled_faults_are_preferred() -> None:
    drilled = {("kill", "broker"): 9, ("kill", "stream"): 9, ("kill", "api"): 1, ("pause", "broker"): 9}
    rounds = drawn(4, 100, drilled={**drilled, ("pause", "stream"): 9})
    counts = Counter(drilled) + Counter(fault.key for faults in rounds for fault in faults)
    counts["pause", "stream"] += 9
    assert max(counts.values()) - min(counts.values()) < 15


def test_selection_names_actions_and_parts() -> None:
    (kill,) = selected((KILL, PAUSE), "kill:api")
    assert kill.parts == ("api",)
    assert selected((KILL, PAUSE), "") == [KILL, PAUSE]
    with pytest.raises(ArgumentError, match="kill \\(broker, stream, api\\), pause"):
        selected((KILL, PAUSE), "kill:disk")


def test_names_of_all_actions_are_unique_and_their_texts_repeat_them() -> None:
    for scenario in SCENARIOS.values():
        assert len({one.name for one in scenario.actions}) == len(scenario.actions)
        faults = tuple(
            Fault(one.name, part, 1.5, 2.0, one.draw(random.Random(number)))  # noqa: S311 - a seed
            for one in scenario.actions
            for number, part in enumerate(one.parts)
        )
        assert parse_rounds(rounds_text([faults]), scenario.actions) == [faults]


def test_feed_writes_the_frames_and_klines_of_its_exact_bars(tmp_path: Path) -> None:
    emitted = write_feed(Feed(seed=3, seconds=150), tmp_path)
    events = []
    for frame in read_frames(tmp_path):
        parsed = parse_frame(frame.raw, 0, "binance_futures")
        assert isinstance(parsed, AcceptedFrame)
        events.append(parsed.event)
    assert len(events) == len(emitted.order)
    expected = reference_bars(
        {
            **{name: getattr(event, name) for name in ("exchange", "symbol", "stream", "trade_id", "side")},
            **{name: getattr(event, name) for name in ("first_trade_id", "last_trade_id", "trade_type")},
            "price": Decimal(event.price),
            "qty": Decimal(event.qty),
            "event_time": datetime.fromtimestamp(event.event_time / 1e6, UTC),
        }
        for event in events
    )
    assert len(expected) == len(emitted.bars)
    for (_, symbol, start), bar in expected.items():
        exact = emitted.bars[symbol, round((start - EPOCH).total_seconds() * 1000)].columns()
        assert {name: bar[name] for name in exact} == exact
    for number, frames in ((0, 100), (1, len(events))):
        symbol = emitted.feed.symbols[number]
        ids = [event.trade_id for event in events[:frames] if event.symbol == symbol]
        assert ids == list(range(FIRST_ID, emitted.last_ids(frames)[symbol] + 1))
    for kline in read_klines(tmp_path, "BTCUSDT", "1m"):
        exact = emitted.bars["BTCUSDT", kline.open_time_ms].columns()
        assert (kline.trades, Decimal(kline.quote_volume)) == (exact["trades"], exact["quote_volume"])


class FakePlatform:
    """A platform whose part works again some polls after a fault."""

    def __init__(self) -> None:
        self.capabilities = set(ALL_UP)


class FakeOracle:
    """An oracle that is satisfied, or fails at its nth quiet point."""

    def __init__(self, fails_at: int = 0) -> None:
        self.compared = Compared()
        self._fails_at = fails_at

    def watch(self) -> None:
        pass

    def settle(self, _report: object) -> float:
        self.compared.quiet_points += 1
        if self.compared.quiet_points == self._fails_at:
            raise BrokenPromiseError("a trade is missing")
        return 0.1


class NoLogs:
    def new_events(self) -> dict[str, list[dict[str, Any]]]:
        return {}


def drill(tmp_path: Path, recorder: Recorder, oracle: FakeOracle, *actions: Action, limit_s: float = 5.0) -> Drill:
    return Drill(
        platform=cast(DrilledPlatform, FakePlatform()),
        actions={one.name: one for one in actions},
        oracle=cast(Oracle, oracle),
        report=lambda _: None,
        logs=cast(states.LogReader, NoLogs()),
        on_fault=recorder.fault,
        recovery_limit_s=limit_s,
    )


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(run="one", directory=tmp_path)


def recorded(tmp_path: Path) -> list[results.FaultResult]:
    return list(results.read(results.FaultResult, tmp_path))


def parameters_of(found: results.FaultResult) -> dict[str, str | int | float]:
    return {name: value for name, value in found.parameters.items() if name != "load"}


def test_recovery_is_measured_from_the_end_of_the_fault(tmp_path: Path, recorder: Recorder) -> None:
    def back_after_a_second(_platform: DrilledPlatform, _parameters: Parameters) -> Probe:
        back = threading.Event()
        threading.Timer(1.0, back.set).start()

        def probe() -> bool:
            if not back.is_set():
                raise ConnectionRefusedError
            return True

        return probe

    slow = action("slow", probe=back_after_a_second, gives=frozenset({"day"}))
    run = drill(tmp_path, recorder, FakeOracle(), slow)
    run.run(iter([(Fault("slow", lasts_s=0.5, parameters={"deep": 2}),)]))
    (found,) = recorded(tmp_path)
    assert run.violations == []
    assert (found.fault, parameters_of(found)) == ("slow", {"deep": 2})
    assert 0.5 <= found.lasted_s < 0.8
    assert found.recovered_s is not None
    assert 1.0 <= found.recovered_s <= 2.0
    assert "day" in run.platform.capabilities
    assert drilled_before(tmp_path) == {("slow", ""): 1}


def test_overlapping_faults_name_each_other(tmp_path: Path, recorder: Recorder) -> None:
    run = drill(tmp_path, recorder, FakeOracle(), KILL, PAUSE)
    run.run(iter([(Fault("pause", "broker", 0.0, 0.6), Fault("kill", "api", 0.3)), (Fault("kill", "api"),)]))
    assert [(one.fault, parameters_of(one)) for one in recorded(tmp_path)] == [
        ("pause", {"overlaps": "kill"}),
        ("kill", {"overlaps": "pause"}),
        ("kill", {}),
    ]


def test_a_part_that_does_not_recover_breaks_a_promise(tmp_path: Path, recorder: Recorder) -> None:
    never = action("never", probe=lambda *_: lambda: False)
    run = drill(tmp_path, recorder, FakeOracle(), never, limit_s=0.3)
    run.run(iter([(Fault("never"),), (Fault("never"),)]))
    assert len(recorded(tmp_path)) == 1
    assert run.violations == ["never:at_s=0.0,lasts_s=0.0: not recovered within 0 s (the probe was false)"]


def test_a_violation_ends_the_run_and_names_what_repeats_it(tmp_path: Path, recorder: Recorder) -> None:
    run = drill(tmp_path, recorder, FakeOracle(fails_at=2), KILL)
    run.run(iter([(Fault("kill", "api", 0.1),), (Fault("kill", "api"),)]))
    found = recorder.drill(run, seed=9, scenario="random", lasted_s=2.0)
    assert found.quiet_points == 2
    assert found.violations == ("a trade is missing [make drill SEED=9 LIST='kill:part=api,at_s=0.1,lasts_s=0.0']",)
    assert list(results.read(results.DrillResult, tmp_path)) == [found]


def test_an_interrupted_round_is_not_recorded(tmp_path: Path, recorder: Recorder) -> None:
    oracle = FakeOracle()
    oracle.watch = oracle.settle = lambda *_: sys.exit(143)  # type: ignore[method-assign,assignment]
    run = drill(tmp_path, recorder, oracle, KILL)
    with pytest.raises(SystemExit):
        run._run_round((Fault("kill", "api"),))
    assert recorded(tmp_path) == []


def test_a_failing_action_is_reported(tmp_path: Path, recorder: Recorder) -> None:
    def fails(_platform: DrilledPlatform, _parameters: Parameters) -> Any:
        raise ValueError("no such file")

    run = drill(tmp_path, recorder, FakeOracle(), action("fails", fault=fails))
    run.run(iter([(Fault("fails"),)]))
    assert run.violations == ["fails:at_s=0.0,lasts_s=0.0: the action failed: ValueError('no such file')"]


def test_log_lines_of_parts_and_dagster_processes_are_read_once(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    settings.log_dir.mkdir(parents=True)
    log = settings.log_dir / "code-cryptolake.log"
    log.write_text(
        '2026-05-08 10:00:00 [info     ] orphaned_run_canceled          job=a\n{"event": "batch_resent"}\n{"ev'
    )
    reader = states.LogReader(settings)
    events = reader.new_events()["code-cryptolake"]
    assert [event["event"] for event in events] == ["orphaned_run_canceled", "batch_resent"]
    assert reader.new_events() == {"code-cryptolake": []}
    with log.open("a") as file:
        file.write('ent": "gap_fetched"}\nError: no\n')
    assert reader.new_events() == {"code-cryptolake": [{"event": "gap_fetched"}]}


def test_a_repair_while_the_stream_restarts_is_a_state() -> None:
    def event(name: str, second: int) -> dict[str, Any]:
        return {"event": name, "timestamp": f"2026-05-08T10:00:{second:02}Z"}

    events = {
        "bronze": [
            event("bronze_stream_started", 1),
            event("bronze_stream_failed", 10),
            event("bronze_stream_started", 20),
        ],
        "producer": [event("gap_fetched", 15), event("gap_fetched", 25), event("batch_resent", 26)],
    }
    found = states.reached(events)
    assert found == {"repair_during_restart": 1, "gap_fetched": 2, "batch_resent": 1}
