"""`ops.stream_coverage`: what a repeated replay must not take back."""

from __future__ import annotations

from dataclasses import replace

from cryptolake_assets.lake.coverage import CoverageRow, IcebergCoverageSink, read_coverage
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


def test_a_row_moves_forward_and_never_back(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW])
    sink.write([replace(ROW, connected_to_ms=9_000, kafka_offset=20)])
    sink.write([replace(ROW, connected_to_ms=7_000, kafka_offset=99)])
    (row,) = read_coverage(lake)
    assert (row.connected_to_ms, row.kafka_offset) == (9_000, 20)


def test_connections_and_symbols_are_rows_of_their_own(lake: Settings) -> None:
    sink = IcebergCoverageSink(lake)
    sink.write([ROW, replace(ROW, symbol="ETHUSDT")])
    sink.write([replace(ROW, connected_from_ms=6_000, connected_to_ms=8_000)])
    assert {(row.symbol, row.connected_from_ms) for row in read_coverage(lake)} == {
        ("BTCUSDT", 1_000),
        ("ETHUSDT", 1_000),
        ("BTCUSDT", 6_000),
    }
