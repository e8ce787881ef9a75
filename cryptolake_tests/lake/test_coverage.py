"""`ops.stream_coverage`: a union per symbol; a write touches only the files of the rows that it changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import (
    CoverageExtent,
    CoverageGap,
    IcebergCoverageSink,
    _record,
    archive_rows_since,
    change_archive_rows,
    fold_all,
    gaps_of,
    read_coverage,
    read_coverage_of,
    streamed_symbols,
)
from cryptolake_assets.lake.maintenance.layout import manifests
from cryptolake_assets.lake.touched_files import CLOSED_ROWS
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.settings import Settings

DAY_MS = 86_400_000
ROW = CoverageRow(
    exchange="binance_futures",
    symbol="BTCUSDT",
    stream="trade",
    connected_from_ms=1_000,
    connected_to_ms=5_000,
    kafka_partition=2,
    kafka_offset=10,
    source="ws://127.0.0.1",
)


def test_union_is_extended_and_never_shortened(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW])
    sink.write([replace(ROW, connected_to_ms=9_000, kafka_offset=20)])
    sink.write([replace(ROW, connected_to_ms=7_000, kafka_offset=99)])
    assert [(row.connected_from_ms, row.connected_to_ms, row.kafka_offset) for row in read_coverage(lake)] == [
        (1_000, 5_000, 10),
        (3_000, 9_000, 20),
    ]


def test_pause_between_connections_stays_and_symbols_are_apart(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW, replace(ROW, symbol="ETHUSDT")])
    sink.write([replace(ROW, connected_from_ms=6_000, connected_to_ms=8_000, kafka_offset=20)])
    assert {(row.symbol, row.connected_from_ms) for row in read_coverage(lake)} == {
        ("BTCUSDT", 1_000),
        ("ETHUSDT", 1_000),
        ("BTCUSDT", 6_000),
    }


def test_claim_within_the_union_is_not_written(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW])
    snapshot = load_table(lake, OPS_COVERAGE).metadata.current_snapshot_id
    repeated = replace(ROW, connected_from_ms=2_000, connected_to_ms=4_000, kafka_offset=15)
    sink.write([repeated, replace(repeated, connected_from_ms=2_500, connected_to_ms=5_000)])
    assert load_table(lake, OPS_COVERAGE).metadata.current_snapshot_id == snapshot
    assert read_coverage(lake) == [ROW]
    other = replace(repeated, kafka_partition=3)
    sink.write([other])
    assert set(read_coverage(lake)) == {ROW, other}


def test_write_keeps_the_rows_that_ended_before_its_claims(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    recent = replace(ROW, connected_from_ms=100_000, connected_to_ms=200_000, kafka_offset=50)
    sink.write([ROW, recent, replace(ROW, symbol="ETHUSDT")])
    extended = replace(recent, connected_from_ms=190_000, connected_to_ms=210_000, kafka_offset=60)
    sink.write([extended])
    rest = replace(extended, connected_from_ms=198_000)  # what readers lack without it: they shorten `recent` by 2 s
    assert set(read_coverage(lake)) == {ROW, recent, rest, replace(ROW, symbol="ETHUSDT")}


def files(lake: Settings) -> set[str]:
    return {task.file.file_path for task in load_table(lake, OPS_COVERAGE).scan().plan_files()}


def archived(number: int) -> CoverageRow:
    from_ms = number * DAY_MS
    return replace(
        ROW, connected_from_ms=from_ms, connected_to_ms=from_ms + DAY_MS, kafka_partition=None, kafka_offset=None
    )


def test_streams_and_archive_rewrite_only_their_own_files(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    change_archive_rows(lake, ROW.exchange, ROW.symbol, lambda before: [*before, archived(1)])
    of_archive = files(lake)
    sink.write([ROW])
    of_stream = files(lake) - of_archive
    assert len(of_stream) == 1
    sink.write([replace(ROW, connected_to_ms=6_000, kafka_offset=20)])
    assert files(lake) > of_archive
    assert not files(lake) & of_stream
    of_stream = files(lake) - of_archive
    change_archive_rows(lake, ROW.exchange, ROW.symbol, lambda before: [*before, archived(2)])
    assert files(lake) > of_stream
    assert len(files(lake)) == 2
    assert len(read_coverage(lake)) == 4


def test_many_closed_rows_move_to_a_file_that_writes_do_not_touch(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    pauses = [
        replace(ROW, connected_from_ms=number * 10_000, connected_to_ms=number * 10_000 + 5_000, kafka_offset=number)
        for number in range(CLOSED_ROWS + 5)
    ]
    sink.write(pauses)
    assert len(files(lake)) == 1
    now_ms = 10 * DAY_MS
    sink.write([replace(ROW, connected_from_ms=now_ms, connected_to_ms=now_ms + 5_000, kafka_offset=5_000)])
    sink.write([replace(ROW, connected_from_ms=5, connected_to_ms=5_500, kafka_offset=5_000)])
    closed = files(lake)
    assert len(closed) == 2
    for number in range(3):
        end_ms = now_ms + 6_000 + number
        sink.write([replace(ROW, connected_from_ms=now_ms, connected_to_ms=end_ms, kafka_offset=6_000 + number)])
        assert len(files(lake)) == 2
        assert len(files(lake) & closed) == 1
    assert {row.connected_from_ms for row in read_coverage(lake)} >= {row.connected_from_ms for row in pauses[1:]}


def test_rows_of_earlier_releases_become_unions(lake: Settings) -> None:
    """Earlier releases stored a row per connection, without evidence, together with the archive's rows."""
    hour_ms = 3_600_000
    rows = [
        replace(
            ROW,
            connected_from_ms=number * hour_ms,
            connected_to_ms=(number + 1) * hour_ms + 5_000,
            kafka_offset=number,
            evidence=None,
        )
        for number in range(24)
    ]
    table = load_table(lake, OPS_COVERAGE)
    records = [_record(row) for row in (*rows, archived(3))]
    table.append(pa.Table.from_pylist(records, OPS_COVERAGE.arrow_schema()))
    fold_all(lake)
    stored = read_coverage(lake)
    assert archived(3) in stored
    assert len(stored) <= 8
    assert min(row.connected_from_ms for row in stored) == 0
    assert max(row.connected_to_ms for row in stored if not row.of_archive) == 24 * hour_ms + 5_000
    snapshot = load_table(lake, OPS_COVERAGE).metadata.current_snapshot_id
    fold_all(lake)
    assert load_table(lake, OPS_COVERAGE).metadata.current_snapshot_id == snapshot


def test_commit_leaves_one_file_and_two_manifests_after_many_commits(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    for number in range(6):
        sink.write([replace(ROW, connected_to_ms=5_000 + number, kafka_offset=10 + number)])
    table = load_table(lake, OPS_COVERAGE)
    found = [(manifest.added_files_count, manifest.deleted_files_count) for manifest in manifests(table)]
    assert sorted(found) == [(0, 1), (1, 0)]


def test_same_symbol_of_another_market_has_its_own_row(lake: Settings) -> None:
    spot = replace(ROW, exchange="binance_spot", connected_to_ms=9_000, kafka_offset=99)
    sink = IcebergCoverageSink(lake)
    sink.write([ROW])
    sink.write([spot])
    assert sorted(read_coverage(lake), key=lambda row: row.exchange) == [ROW, spot]
    assert read_coverage(lake, exchange="binance_spot", symbols=["BTCUSDT"]) == [spot]
    archive = replace(spot, connected_to_ms=10_000, kafka_partition=None, kafka_offset=None)
    change_archive_rows(lake, "binance_spot", "BTCUSDT", lambda _: [archive])
    in_spot = lake.of_family(Family.SPOT)
    assert ([row for row, _ in archive_rows_since(in_spot, None)], archive_rows_since(lake, None)) == ([archive], [])
    later = replace(spot, symbol="ETHUSDT")
    sink.write([later])
    start = datetime.fromtimestamp(2, UTC)
    assert sorted(streamed_symbols(lake, start)) == ["BTCUSDT"]
    assert sorted(streamed_symbols(in_spot, start)) == ["BTCUSDT", "ETHUSDT"]
    _, extent = read_coverage_of(lake, ["binance_spot"], None, None)
    assert extent == CoverageExtent(
        frozenset({("binance_spot", "BTCUSDT"), ("binance_spot", "ETHUSDT")}), 9_000, 10_000
    )


def test_gap_between_rows_is_that_of_their_exchange(lake: Settings) -> None:
    spot = replace(ROW, exchange="binance_spot", connected_from_ms=5_000, connected_to_ms=7_000)
    later = replace(ROW, connected_from_ms=7_000, connected_to_ms=9_000, kafka_offset=20)
    IcebergCoverageSink(lake).write([ROW, spot, later])
    gap = CoverageGap("binance_futures", "BTCUSDT", "trade", 5_000, 7_000)
    assert gaps_of(load_table(lake, OPS_COVERAGE)) == [gap]
