"""Checkpoints of Bronze queries are recovered from the table and Kafka; lost records become gaps."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.bronze import checkpoint_recovery, lost_records
from cryptolake_assets.bronze.checkpoint_recovery import recover_checkpoint
from cryptolake_assets.bronze.offsets import committed_offsets, query_of, rejected_query_of
from cryptolake_assets.kafka.topic_copy import Retained
from cryptolake_assets.kafka.topics import PeekedRecord
from cryptolake_assets.lake import stream_checkpoints
from cryptolake_assets.lake.coverage import IcebergCoverageSink
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, IcebergGapSink, OpenBecause, TradeGap, read_gaps
from cryptolake_assets.lake.stream_checkpoints import checkpoint, query_id
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade

START = datetime(2024, 7, 19, 10, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
END_MS = START_MS + 60_000
QUERY = query_of(TRADES)


class FakeKafka:
    """The retained offsets of the topic of trades; record N of a partition has the time of N seconds after START."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.retained: dict[int, Retained] = {0: Retained(0, 20), 1: Retained(0, 0)}
        self.shift_ms = 0
        monkeypatch.setattr(checkpoint_recovery, "retained", lambda *_: self.retained)
        monkeypatch.setattr(checkpoint_recovery, "read", self.read)
        monkeypatch.setattr(lost_records, "exchange_clock_ms", lambda _: END_MS)

    def read(self, _: Settings, __: str, spans: Mapping[int, tuple[int, int]]) -> list[PeekedRecord]:
        return [
            PeekedRecord(partition, offset, START_MS + offset * 1000 + self.shift_ms, None, None, ())
            for partition, (first, end) in spans.items()
            for offset in range(first, end)
        ]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    return FakeKafka(monkeypatch)


def store(lake: Settings, first: int, end: int) -> None:
    """Append the records of these offsets; the ids of their trades are 100 higher."""
    times = {offset: START + timedelta(seconds=offset) for offset in range(first, end)}
    append(lake, [trade(at, 100 + offset, kafka_offset=offset, kafka_timestamp=at) for offset, at in times.items()])


def recover(lake: Settings) -> None:
    recover_checkpoint(lake, QUERY, TRADES, TRADES.bronze, (lake.topic_trades,))


def write_checkpoint(lake: Settings, offset: int) -> str:
    query = str(uuid.uuid4())
    stream_checkpoints.write(lake, checkpoint(lake, QUERY), query, {lake.topic_trades: {0: offset, 1: 0}})
    return query


def test_sound_checkpoint_stays(lake: Settings, kafka: FakeKafka) -> None:
    query = write_checkpoint(lake, 7)
    recover(lake)
    assert (query_id(lake, checkpoint(lake, QUERY)), committed_offsets(lake)) == (query, {0: 7, 1: 0})


def test_deleted_checkpoint_continues_after_the_newest_record_of_the_table(lake: Settings, kafka: FakeKafka) -> None:
    store(lake, 0, 5)
    store(lake, 5, 9)
    recover(lake)
    assert committed_offsets(lake) == {0: 9, 1: 0}
    assert read_gaps(lake) == []


@pytest.mark.parametrize("in_table", [4, 9])
def test_damaged_checkpoint_continues_after_the_table_and_its_readable_batches(
    lake: Settings, kafka: FakeKafka, in_table: int
) -> None:
    """Records that are not in the table of trades, such as rejected ones, are between the two."""
    store(lake, 0, in_table)
    query = write_checkpoint(lake, 7)
    offsets = Path(checkpoint(lake, QUERY).removeprefix("file://"), "offsets")
    (offsets / "1").write_text("v1\n{}\n{")
    recover(lake)
    assert committed_offsets(lake) == {0: max(7, in_table), 1: 0}
    assert query_id(lake, checkpoint(lake, QUERY)) not in (None, query), "the sink skips batches of the earlier id"


def test_offsets_of_a_deleted_topic_of_the_same_name_are_not_used(lake: Settings, kafka: FakeKafka) -> None:
    store(lake, 0, 9)
    kafka.shift_ms = 1
    recover(lake)
    assert committed_offsets(lake) == {}, "the new query reads the topic from its begin"


def test_new_query_begins_without_a_checkpoint(lake: Settings, kafka: FakeKafka) -> None:
    recover(lake)
    assert query_id(lake, checkpoint(lake, QUERY)) is None


def cover(lake: Settings, symbol: str, partition: int = 0, *, to_ms: int = END_MS, offset: int = 20) -> None:
    row = CoverageRow(
        "binance_futures", symbol, "trade", START_MS, to_ms, partition, offset, "test", evidence=Evidence.BARRIER
    )
    IcebergCoverageSink(lake).write([row])


def gap(first: int, last: int, **changes: Any) -> TradeGap:
    us = START_MS * 1000
    return TradeGap(
        "binance_futures", "BTCUSDT", "trade", first, last, last - first + 1, us, us + 1_000_000, START, **changes
    )


def test_records_deleted_before_bronze_read_them_become_gaps(lake: Settings, kafka: FakeKafka) -> None:
    closed = {"closed_at": START, "closed_by": ClosedBy.REST, "outcome": GapOutcome.REPAIRED, "kafka_partition": 0}
    IcebergGapSink(lake).write([gap(1, 2, **closed, kafka_offset=9), gap(3, 4, **closed, kafka_offset=10)])
    store(lake, 0, 9)
    write_checkpoint(lake, 9)
    cover(lake, "BTCUSDT")
    cover(lake, "ETHUSDT", partition=1)
    cover(lake, "XRPUSDT")
    kafka.retained[0] = Retained(15, 20)
    recover(lake)
    assert committed_offsets(lake) == {0: 15, 1: 0}
    lost = {(one.symbol, one.first_missing_id): one for one in IcebergGapSink(lake).lost_gaps()}
    assert {key: one.ids_missing for key, one in lost.items()} == {
        ("BTCUSDT", 3): 2,  # closed by a trade that may be lost
        ("BTCUSDT", 109): 0,  # the trades after the newest one in Bronze; the end is unknown
        ("XRPUSDT", 0): 0,
    }
    newest = lost["BTCUSDT", 109]
    assert (newest.after_us, newest.before_us) == ((START_MS + 8_000) * 1000, END_MS * 1000)
    assert {one.open_because for one in lost.values()} == {OpenBecause.LOST_IN_KAFKA}
    recover(lake)
    assert len(IcebergGapSink(lake).lost_gaps()) == 3


def test_gap_of_lost_records_begins_with_the_end_of_proven_coverage(lake: Settings, kafka: FakeKafka) -> None:
    """Else no coverage of a restarted producer contains the time of the trades in Bronze after it."""
    store(lake, 0, 9)
    write_checkpoint(lake, 9)
    cover(lake, "BTCUSDT", to_ms=START_MS + 4_000 + lake.watermark_grace_ms, offset=8)
    kafka.retained[0] = Retained(15, 20)
    recover(lake)
    (lost,) = IcebergGapSink(lake).lost_gaps()
    assert (lost.first_missing_id, lost.after_us) == (105, (START_MS + 4_000) * 1000)


def test_records_above_the_end_are_of_a_deleted_topic(lake: Settings, kafka: FakeKafka) -> None:
    write_checkpoint(lake, 21)
    recover(lake)
    assert committed_offsets(lake) == {0: 0, 1: 0}


def test_rejected_records_lost_in_kafka_make_no_gaps(lake: Settings, kafka: FakeKafka) -> None:
    cover(lake, "BTCUSDT")
    kafka.retained[0] = Retained(15, 20)
    topics = lake.topic_trades, lake.topic_rejected
    recover_checkpoint(lake, rejected_query_of(TRADES), TRADES, FUTURES.rejected, topics)
    assert read_gaps(lake) == []
