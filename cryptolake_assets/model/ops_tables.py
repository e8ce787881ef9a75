"""Operational tables: stream coverage, and row counts of each run. Pure."""

from __future__ import annotations

from cryptolake_assets.model.columns import EXCHANGE, SYMBOL, TIME, Column
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import TableSpec

OPS_COVERAGE = TableSpec(
    namespace="ops",
    name="stream_coverage",
    doc="Intervals of exchange time without missing trades, with their evidence: a union per stream, and archive days.",
    columns=(
        EXCHANGE,
        SYMBOL,
        Column("stream", "string", "trade or aggTrade"),
        Column(
            "connected_from", TIME, "start of the interval, in exchange time: every frame from here on was received"
        ),
        Column(
            "connected_to",
            TIME,
            "end of the interval, in exchange time: every frame up to here is acknowledged by Kafka",
        ),
        Column("source", "string", "WebSocket base URL of the exchange, or archive file with its SHA-256"),
        Column(
            "kafka_partition",
            "int",
            "Kafka partition of the symbol's trades; null for archive days, -1 while a day is being loaded",
        ),
        Column("kafka_offset", "long", "exclusive upper Kafka offset of the interval's frames; null for archive days"),
        Column("updated_at", TIME, "write time of the row"),
        Column("evidence", "string", "proof of completeness: ids, barrier or klines; null in rows of earlier releases"),
        Column("first_id", "long", "first of the archive's consecutive ids"),
        Column("last_id", "long", "last of the archive's consecutive ids"),
    ),
    key=("exchange", "symbol", "stream", "evidence", "connected_from", "connected_to"),
    rewritten=True,
    writers=("producer", *(f"bronze/{family}_trades_archive" for family in Family)),
)

OPS_RUN_METRICS = TableSpec(
    namespace="ops",
    name="run_metrics",
    doc="Row counts of each Silver and Gold run, one row per partition; append-only.",
    columns=(
        Column("run_id", "string", "id of the Dagster run"),
        Column("asset", "string", "asset key, such as silver/futures_ohlcv_1m"),
        Column("partition", "string", "Dagster partition key"),
        Column("engine", "string", "engine of the run: duckdb or spark"),
        Column("rows_in", "long", "number of rows read"),
        Column("rows_valid", "long", "number of rows used for the result"),
        Column("rows_dropped", "long", "number of rows dropped by a quality rule"),
        Column("rows_duplicate", "long", "number of duplicates removed"),
        Column("rows_other_type", "long", "number of trades that are not order-book executions"),
        Column("rows_dropped_by_rule", "string", "JSON object: number of dropped rows by rule"),
        Column("rows_written", "long", "number of rows changed in the table"),
        Column("duration_ms", "long", "duration of the run, wall time", own_unit="ms"),
        Column("source_snapshot", "long", "id of the snapshot read"),
        Column("snapshot", "long", "id of the committed snapshot; empty if nothing was committed"),
        Column("finished_at", TIME, "finish time of the run"),
        Column(
            "rows_rejected", "long", "number of frames that the producer received in the partition's hour and rejected"
        ),
        Column("passed", "boolean", "true if the blocking checks passed; otherwise nothing was written"),
    ),
    partition=("finished_at", "month"),
    writers=tuple(
        f"{table}" for family in Family for table in (f"silver/{family}_ohlcv_1m", f"gold/{family}_daily_stats")
    ),
)
