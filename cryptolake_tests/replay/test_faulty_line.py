"""The fault pipeline of a connection, without a connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.binance.trade_frames import parse_frame
from cryptolake_assets.model.events import RejectedFrame
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.replay_faults import (
    Corrupt,
    Cut,
    Drop,
    Duplicate,
    FaultBoard,
    Reorder,
    ReplayFault,
    Shutdown,
    Silent,
    Stall,
)
from cryptolake_assets.replay.faulty_line import ConnectionFault, FaultyLine, ReplayedFrame, corrupted
from cryptolake_tests.support.captures import agg_trade_frame

SECOND_NS = 10**9
shares = st.floats(0.01, 1.0)
seeds = st.integers(0, 2**40)
numbers_of_frames = st.integers(0, 300)


@dataclass(frozen=True)
class Frame:
    number: int
    stream: str | None = "a@aggTrade"

    @property
    def due_ns(self) -> int:
        return self.number * SECOND_NS

    @property
    def trade_id(self) -> int | None:
        return 1_000 + self.number


def board(*faults: ReplayFault) -> FaultBoard:
    active = FaultBoard()
    active.switch_on(faults)
    return active


def line_of(active: FaultBoard, market: Market = Market.USD_M) -> FaultyLine:
    return FaultyLine(active, market)


def steps(line: FaultyLine, frames: Iterable[Frame], *, flush: bool = True) -> list[str | ConnectionFault]:
    """Return the texts of the delivered frames, and the connection faults."""
    found = [step for frame in frames for step in line.take(frame, str(frame.number))]
    found += line.flush() if flush else ()
    return [step.text if isinstance(step, ReplayedFrame) else step for step in found]


def sent(fault: ReplayFault, frames: Iterable[Frame]) -> list[int]:
    """Return the numbers of the frames that one fault delivers."""
    return [int(step) for step in steps(line_of(board(fault)), frames) if isinstance(step, str)]


def frames(count: int, stream: str | None = "a@aggTrade") -> list[Frame]:
    return [Frame(number, stream) for number in range(count)]


def test_frames_pass_unchanged_without_faults() -> None:
    line = line_of(FaultBoard())
    assert line.idle
    assert steps(line, frames(3)) == ["0", "1", "2"]


@given(numbers_of_frames, shares, st.integers(1, 40), seeds)
def test_reordered_frames_are_complete_and_within_the_window(count: int, share: float, window: int, seed: int) -> None:
    found = sent(Reorder(share=share, window=window, seed=seed), frames(count))
    assert sorted(found) == list(range(count))
    assert all(abs(place - number) <= window for place, number in enumerate(found))


@given(numbers_of_frames, shares, st.integers(1, 40), seeds)
def test_duplicates_are_sent_at_most_once_and_after_the_original(
    count: int, share: float, within: int, seed: int
) -> None:
    found = sent(Duplicate(share=share, within=within, seed=seed), frames(count))
    assert list(dict.fromkeys(found)) == list(range(count))
    assert max(Counter(found).values(), default=1) <= 2


@given(numbers_of_frames, shares, st.integers(1, 20), seeds)
def test_frames_that_are_not_dropped_stay_in_order(count: int, share: float, run: int, seed: int) -> None:
    found = sent(Drop(share=share, run=run, seed=seed), frames(count))
    assert found == sorted(set(found))
    assert set(found) <= set(range(count))
    assert sent(Drop(share=share, run=run, seed=seed), frames(count)) == found


@given(st.integers(50, 300), seeds, st.integers(1, 49))
def test_fault_affects_the_same_frames_from_any_start(count: int, seed: int, start: int) -> None:
    fault = Drop(share=0.3, seed=seed)
    assert sent(fault, frames(count)[start:]) == [number for number in sent(fault, frames(count)) if number >= start]


def test_share_of_dropped_frames_is_approximately_met() -> None:
    assert 400 < 2_000 - len(sent(Drop(share=0.25), frames(2_000))) < 600
    assert sent(Drop(share=0.25, seed=1), frames(200)) != sent(Drop(share=0.25, seed=2), frames(200))


def test_named_ids_of_named_streams_are_dropped() -> None:
    fault = Drop(ids=((1_002, 1_004), (1_008, 1_008)), streams=("a@aggTrade",))
    assert sent(fault, frames(10)) == [0, 1, 5, 6, 7, 9]
    assert sent(fault, frames(10, "b@aggTrade")) == list(range(10))
    assert sent(fault, frames(10, None)) == list(range(10))


def test_fault_occurs_at_most_times_and_is_counted() -> None:
    faults = board(Drop(share=1.0, times=3))
    assert steps(line_of(faults), frames(6)) == ["3", "4", "5"]
    assert steps(line_of(faults), frames(2)) == ["0", "1"], "counted over all connections"
    (described,) = faults.describe()
    assert (described["kind"], described["share"], described["times"], described["happened"]) == ("drop", 1.0, 3, 3)


def test_silent_stream_pauses_after_a_frame_for_a_time() -> None:
    fault = Silent(streams=("a@aggTrade",), after_frames=2, for_s=5.0, times=1)
    faults = board(fault)
    mixed = [frame for pair in zip(frames(10), frames(10, "b@aggTrade"), strict=True) for frame in pair]
    found = Counter(int(step) for step in steps(line_of(faults), mixed) if isinstance(step, str))
    assert sorted(found.elements()) == sorted([*range(10), 0, 1, 7, 8, 9])
    assert steps(line_of(faults), frames(3)) == ["0", "1", "2"], "the second connection is not affected"
    assert sent(Silent(), frames(5)) == []


def test_connection_faults_follow_the_frame_that_makes_them_due() -> None:
    cut, stall = Cut(every_frames=3), Stall(every_s=4.0, for_s=0.5, times=1)
    assert steps(line_of(board(cut)), frames(7)) == ["0", "1", "2", cut, "3", "4", "5", cut, "6"]
    shutdown = Shutdown(every_frames=2, times=1)
    assert steps(line_of(board(shutdown)), frames(4)) == ["0", "1", shutdown, "2", "3"]
    assert steps(line_of(board(stall)), frames(10)) == ["0", "1", "2", "3", "4", stall, *"56789"]


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10**6))
def test_corrupted_frame_is_rejected_for_any_truncation(place: float, number: int) -> None:
    raw = corrupted(agg_trade_frame("BTCUSDT", number, 1_700_000_000_000), place)
    assert isinstance(parse_frame(raw, ingest_time_us=0, exchange="x"), RejectedFrame)


@given(seeds)
def test_share_of_the_frames_is_corrupted_in_place(seed: int) -> None:
    frames = [Frame(number) for number in range(100, 200)]
    found = steps(line_of(board(Corrupt(share=0.2, seed=seed))), frames)
    assert len(found) == 100
    intact = {str(number) for number in range(100, 200)}
    assert [text for text in found if isinstance(text, str) and text not in intact and not text.endswith("\x1a")] == []
    assert 0 < sum(text not in intact for text in found) < 60


@given(numbers_of_frames, seeds)
def test_combined_faults_lose_only_dropped_or_corrupted_frames(count: int, seed: int) -> None:
    drop, corrupt = Drop(share=0.1, seed=seed), Corrupt(share=0.1, seed=seed)
    faults = board(Reorder(share=0.5, seed=seed), Duplicate(share=0.5, seed=seed), corrupt, drop)
    found = steps(line_of(faults), frames(count))
    intact = {step for step in found if isinstance(step, str) and not step.endswith("\x1a")}
    happened = {switch["kind"]: switch["happened"] for switch in faults.describe()}
    assert len(intact) == count - happened["drop"] - happened["corrupt"]


def test_change_of_the_faults_releases_delayed_frames() -> None:
    faults = board(Reorder(share=1.0, window=50))
    line = line_of(faults)
    sent_before = steps(line, frames(3), flush=False)
    faults.switch_off()
    assert not line.idle
    assert len(sent_before) < 3
    assert Counter([*sent_before, *steps(line, [Frame(3)])]) == Counter("0123")
    assert line.idle


@pytest.mark.parametrize("place", [0.0, 0.999])
def test_corruption_keeps_a_part_of_the_frame(place: float) -> None:
    assert 1 <= len(corrupted("{}", place).removesuffix("\x1a")) < 2
