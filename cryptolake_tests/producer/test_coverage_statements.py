"""Coverage claims only proven intervals, whatever the frames' times."""

from __future__ import annotations

import pytest

from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.producer.coverage_statements import MAX_STEP_MS, ConnectionSpan, CoverageClaims, CoverageWriter
from cryptolake_tests.support.fakes import NOON_MS, MemorySink

YEAR_2099_MS = 4_070_908_800_000
YEAR_2019_MS = 1_546_300_800_000


def span(before_ms: int | None = NOON_MS, after_ms: int | None = NOON_MS + 50) -> ConnectionSpan:
    return ConnectionSpan("test", ("BTCUSDT",), before_ms=before_ms, after_ms=after_ms)


def fed(connection: ConnectionSpan, *times_ms: int) -> ConnectionSpan:
    for time_ms in times_ms:
        connection.see(time_ms)
    return connection


def test_claim_begins_at_a_first_frame_older_than_the_clock_reading() -> None:
    assert fed(span(), NOON_MS + 20, NOON_MS + 500).claim_to(NOON_MS + 900) == (NOON_MS + 20, NOON_MS + 900)


def test_claim_without_frames_begins_at_the_clock_reading() -> None:
    assert span().claim_to(NOON_MS + 900) == (NOON_MS + 50, NOON_MS + 900)


def test_claim_never_begins_before_the_subscription() -> None:
    assert fed(span(), NOON_MS - 30_000).claim_to(NOON_MS + 900) == (NOON_MS, NOON_MS + 900)


def test_claim_keeps_its_beginning() -> None:
    connection = span()
    connection.claim_to(NOON_MS + 100)
    assert fed(connection, NOON_MS + 10).claim_to(NOON_MS + 200) == (NOON_MS + 50, NOON_MS + 200)


def test_claim_without_a_clock_ends_with_the_latest_frame() -> None:
    connection = fed(span(None, None), NOON_MS, NOON_MS + 700)
    assert connection.claim_to(None) == (NOON_MS, NOON_MS + 700)


def test_claim_never_shrinks() -> None:
    connection = fed(span(), NOON_MS + 20)
    connection.claim_to(NOON_MS + 900)
    assert connection.claim_to(None) == (NOON_MS + 20, NOON_MS + 900)


def test_nothing_is_claimed_without_frames_or_clock() -> None:
    assert span(None, None).claim_to(None) is None
    assert span(None, None).claim_to(NOON_MS) is None
    assert span(NOON_MS, None).claim_to(NOON_MS + 5) is None


def test_empty_interval_is_not_claimed() -> None:
    assert fed(span(NOON_MS, NOON_MS), NOON_MS).claim_to(NOON_MS) is None


@pytest.mark.parametrize("wrong_ms", [YEAR_2099_MS, YEAR_2019_MS, 0])
@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("clock", [True, False])
def test_single_frame_with_a_wrong_time_does_not_extend_a_claim(wrong_ms: int, position: int, clock: bool) -> None:
    times = [NOON_MS + 100, NOON_MS + 200, NOON_MS + 300]
    times.insert(position, wrong_ms)
    connection = fed(span() if clock else span(None, None), *times)
    # Without a clock, the first frame counts only once the next one confirms it: the claim is shorter, never longer.
    begin = NOON_MS + 50 if clock else NOON_MS + 200 if position == 1 else NOON_MS + 100
    assert connection.claim_to(None) == (begin, NOON_MS + 300)


def test_time_jump_counts_once_the_next_frame_confirms_it() -> None:
    late_ms = NOON_MS + 10 * MAX_STEP_MS
    connection = fed(span(), NOON_MS + 100, late_ms)
    assert connection.last_ms == NOON_MS + 100
    assert fed(connection, late_ms + 5).last_ms == late_ms + 5


def test_frames_far_ahead_of_the_clock_do_not_extend_a_claim() -> None:
    connection = fed(span(), NOON_MS + 100, YEAR_2099_MS, YEAR_2099_MS + 1)
    assert connection.claim_to(NOON_MS + 900) == (NOON_MS + 50, NOON_MS + 900)


def test_out_of_order_frames_do_not_move_the_end_back() -> None:
    assert fed(span(), NOON_MS + 500, NOON_MS + 400).last_ms == NOON_MS + 500


class Coverage:
    """A writer with the claims of some markets; `stored` returns whether a market's gaps are stored."""

    def __init__(self, sink: MemorySink, *exchanges: str) -> None:
        self.stored = dict.fromkeys(exchanges or ("binance_futures",), True)
        self.writer = CoverageWriter(sink)
        self.claims = [self._claims(exchange) for exchange in self.stored]
        self.claim = self.claims[0].claim

    def _claims(self, exchange: str) -> CoverageClaims:
        async def first() -> bool:
            return self.stored[exchange]

        return CoverageClaims(
            exchange=exchange,
            stream="trade",
            source="ws://x",
            partition_for=lambda key: len(key) % 4,
            overlap_ms=5,
            first=first,
        )

    async def write(self) -> bool:
        return await self.writer.write(self.claims)


async def test_row_contains_partition_and_offset_of_its_symbol() -> None:
    sink = MemorySink()
    coverage = Coverage(sink)
    coverage.claim(["BTCUSDT", "X"], (10, 20), {3: 77, 1: 5})
    assert await coverage.write()
    assert sink.writes == [
        [
            CoverageRow("binance_futures", "BTCUSDT", "trade", 10, 20, 3, 77, "ws://x", Evidence.BARRIER),
            CoverageRow("binance_futures", "X", "trade", 10, 20, 1, 5, "ws://x", Evidence.BARRIER),
        ]
    ]


async def test_only_new_claims_are_written() -> None:
    sink = MemorySink()
    coverage = Coverage(sink)
    coverage.claim(["BTCUSDT"], (10, 20), {3: 1})
    await coverage.write()
    coverage.claim(["BTCUSDT"], (10, 20), {3: 9})
    await coverage.write()
    assert len(sink.writes) == 1
    coverage.claim(["BTCUSDT"], (10, 30), {3: 9})
    coverage.claim(["BTCUSDT"], (10, 40), {3: 10})
    await coverage.write()
    assert [(row.connected_to_ms, row.kafka_offset) for row in sink.writes[1]] == [(40, 10)]


async def test_extended_claim_begins_before_the_end_that_is_written() -> None:
    sink = MemorySink()
    coverage = Coverage(sink)
    for end_ms in (20, 30, 40):
        coverage.claim(["BTCUSDT"], (10, end_ms), {})
        await coverage.write()
    coverage.claim(["BTCUSDT"], (12, 50), {})  # another connection
    coverage.claim(["BTCUSDT"], (1, 50), {}, Evidence.IDS)
    await coverage.write()
    written = [[(row.connected_from_ms, row.connected_to_ms) for row in rows] for rows in sink.writes]
    assert written == [[(10, 20)], [(15, 30)], [(25, 40)], [(12, 50), (1, 50)]]


async def test_claims_of_a_failed_write_are_written_next_time() -> None:
    sink = MemorySink()
    sink.failures_left = 2
    coverage = Coverage(sink)
    coverage.claim(["BTCUSDT"], (10, 20), {})
    assert not await coverage.write()
    coverage.claim(["BTCUSDT"], (10, 30), {})
    coverage.claim(["BTCUSDT"], (50, 60), {})
    assert not await coverage.write()
    assert coverage.writer.failures == 2
    assert coverage.claims[0].covered_to_ms == {}
    assert await coverage.write()
    assert coverage.writer.failures == 0
    assert sink.spans() == [(10, 30), (50, 60)]
    assert coverage.claims[0].covered_to_ms == {"BTCUSDT": 60}


async def test_claims_of_all_markets_are_one_write() -> None:
    sink = MemorySink()
    coverage = Coverage(sink, "binance_futures", "binance_spot")
    for claims, end_ms in zip(coverage.claims, (20, 30), strict=True):
        claims.claim(["BTCUSDT"], (10, end_ms), {3: end_ms})
    assert await coverage.write()
    (rows,) = sink.writes
    assert [(row.exchange, row.connected_to_ms, row.kafka_offset) for row in rows] == [
        ("binance_futures", 20, 20),
        ("binance_spot", 30, 30),
    ]
    assert [claims.covered_to_ms for claims in coverage.claims] == [{"BTCUSDT": 20}, {"BTCUSDT": 30}]


async def test_market_whose_gaps_are_not_stored_keeps_its_claims_and_delays_no_other() -> None:
    sink = MemorySink()
    coverage = Coverage(sink, "binance_futures", "binance_spot")
    for claims in coverage.claims:
        claims.claim(["BTCUSDT"], (10, 20), {})
    coverage.stored["binance_futures"] = False
    assert not await coverage.write()
    assert [row.exchange for row in sink.rows] == ["binance_spot"]
    coverage.stored["binance_futures"] = True
    assert await coverage.write()
    assert [row.exchange for row in sink.rows] == ["binance_spot", "binance_futures"]
