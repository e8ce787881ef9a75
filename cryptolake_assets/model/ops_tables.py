"""Operational tables: stream coverage, and row counts of each run. Pure."""

from __future__ import annotations

from cryptolake_assets.model.columns import EXCHANGE, SYMBOL, TIME, Column
from cryptolake_assets.model.table_spec import TableSpec

OPS_COVERAGE = TableSpec(
    namespace="ops",
    name="stream_coverage",
    doc="What was received without a hole, in exchange time, and where Kafka or the archive holds it.",
    columns=(
        EXCHANGE,
        SYMBOL,
        Column("stream", "string", "trade or aggTrade"),
        Column("connected_from", TIME, "exchange time from which every frame was received"),
        Column("connected_to", TIME, "exchange time up to which every frame is acknowledged by Kafka"),
        Column("source", "string", "the exchange's WebSocket base, or the archive's file with its sha256"),
        Column("kafka_partition", "int", "partition of the symbol's trades; null for the archive, -1 while it loads"),
        Column("kafka_offset", "long", "every frame of the interval is below this offset; null for the archive"),
        Column("updated_at", TIME, "when the row was written"),
        Column("evidence", "string", "what proves it: barrier, ids or klines; null in rows of earlier releases"),
        Column("first_id", "long", "of the archive's ids that continue each other, the first"),
        Column("last_id", "long", "and the last"),
    ),
    key=("exchange", "symbol", "stream", "connected_from"),
    rewritten=True,
    writers=("producer", "bronze/futures_trades_archive"),
)

OPS_RUN_METRICS = TableSpec(
    namespace="ops",
    name="run_metrics",
    doc="What each Silver and Gold run read, kept and dropped, a row a partition; append-only.",
    columns=(
        Column("run_id", "string", "Dagster run"),
        Column("asset", "string", "such as silver/futures_ohlcv_1m"),
        Column("partition", "string", "Dagster partition"),
        Column("engine", "string", "what computed it"),
        Column("rows_in", "long", "rows read"),
        Column("rows_valid", "long", "rows that reached the result"),
        Column("rows_dropped", "long", "rows that a quality rule dropped"),
        Column("rows_duplicate", "long", "repeats removed"),
        Column("rows_other_type", "long", "trades that are not order-book executions"),
        Column("rows_dropped_by_rule", "string", "JSON: rule to rows"),
        Column("rows_written", "long", "rows changed in the table"),
        Column("duration_ms", "long", "wall time", own_unit="ms"),
        Column("source_snapshot", "long", "snapshot that was read"),
        Column("snapshot", "long", "snapshot that was committed, if any"),
        Column("finished_at", TIME, "when the run finished"),
        Column("rows_rejected", "long", "frames refused by the producer that were received in the partition's hour"),
        Column("passed", "boolean", "whether the blocking checks passed; nothing is written when they fail"),
    ),
    partition=("finished_at", "month"),
    writers=("silver/futures_ohlcv_1m", "gold/futures_daily_stats"),
)
