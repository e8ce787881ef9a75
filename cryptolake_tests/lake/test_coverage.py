"""`ops.stream_coverage`: rows only extend, and a repeated replay does not shorten coverage."""

from __future__ import annotations

from dataclasses import replace

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import IcebergCoverageSink, read_coverage
from cryptolake_assets.lake.maintenance.layout import manifests
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.settings import Settings

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


def test_row_is_extended_and_never_shortened(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW])
    sink.write([replace(ROW, connected_to_ms=9_000, kafka_offset=20)])
    sink.write([replace(ROW, connected_to_ms=7_000, kafka_offset=99)])
    (row,) = read_coverage(lake)
    assert (row.connected_to_ms, row.kafka_offset) == (9_000, 20)


def test_each_connection_and_symbol_has_its_own_row(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW, replace(ROW, symbol="ETHUSDT")])
    sink.write([replace(ROW, connected_from_ms=6_000, connected_to_ms=8_000)])
    assert {(row.symbol, row.connected_from_ms) for row in read_coverage(lake)} == {
        ("BTCUSDT", 1_000),
        ("ETHUSDT", 1_000),
        ("BTCUSDT", 6_000),
    }


def test_row_included_in_a_stored_row_is_not_written(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW])
    repeated = replace(ROW, connected_from_ms=2_000, connected_to_ms=4_000, kafka_offset=15)
    sink.write([repeated, replace(repeated, connected_from_ms=2_500, connected_to_ms=5_000)])
    assert read_coverage(lake) == [ROW]
    # Not included: a later end, a lower offset, another partition.
    wider = [
        replace(repeated, connected_to_ms=5_001),
        replace(repeated, connected_from_ms=2_100, kafka_offset=9),
        replace(repeated, connected_from_ms=2_200, kafka_partition=3),
    ]
    sink.write(wider)
    assert sorted(read_coverage(lake), key=lambda row: row.connected_from_ms) == sorted(
        [ROW, *wider], key=lambda row: row.connected_from_ms
    )


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
