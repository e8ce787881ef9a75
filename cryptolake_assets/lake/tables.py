"""The tables: names, columns, keys and partitioning, said once.

Iceberg, Arrow and Spark schemas are made from here (`table_spec`). Tables of funding, open interest, mark prices and
liquidations are in `tables_market`.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptolake_assets.lake.tables_market import MARKET_TABLES, POOLED_MARKET_TABLES
from cryptolake_assets.model.batch_columns import COINGECKO_GLOBAL, COINGECKO_MARKETS, FEAR_GREED
from cryptolake_assets.model.columns import PRICE, QUANTITY, QUOTE_VOLUME, TIME, VOLUME, Column
from cryptolake_assets.model.measures import BAR_MEASURES, DAILY_MEASURES, columns
from cryptolake_assets.model.table_spec import CATALOG as CATALOG
from cryptolake_assets.model.table_spec import TableSpec as TableSpec
from cryptolake_assets.model.table_spec import raw_answers

_COMMON = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.retry.num-retries": "20",
    "commit.retry.min-wait-ms": "50",
}

CONTRACT = (
    Column("symbol", "string", "the exchange's symbol, such as BTCUSDT"),
    Column("event_time", TIME, "trade time"),
    Column("price", PRICE, "quote currency per unit"),
    Column("qty", QUANTITY, "base currency; contracts where the exchange is binance_futures_coin"),
    Column("side", "string", "the taker's: buy or sell"),
    Column("trade_id", "long", "id in its stream's sequence"),
    Column("exchange", "string", "such as binance_futures"),
    Column("ingest_ts", TIME, "when it was received, by the receiver's clock: a frame, or the archive's file"),
    Column("first_trade_id", "long", "first single trade of an aggregate; equals trade_id for a single trade"),
    Column("last_trade_id", "long", "last single trade of an aggregate; equals trade_id for a single trade"),
    Column("trade_type", "string", "the exchange's X: MARKET is an order-book execution"),
    Column("stream", "string", "trade or aggTrade; their ids are different sequences"),
)
"""The contract of an event, as `cryptolake_assets.binance.trade_frames.TradeEvent` has it, with the lake's types."""

_KAFKA = (
    Column("kafka_partition", "int", "Kafka partition; null in a trade of the archive"),
    Column("kafka_offset", "long", "Kafka offset; null in a trade of the archive"),
    Column("kafka_timestamp", TIME, "Kafka record time; null in a trade of the archive"),
)

BRONZE_TRADES = TableSpec(
    namespace="bronze",
    name="futures_trades",
    doc="Every trade as received, repeats included: appended by the stream, and by the day from the archive.",
    columns=(*CONTRACT, *_KAFKA),
    partition=("event_time", "hour"),
    properties={"write.distribution-mode": "none", "write.spark.fanout.enabled": "true"},
)

BRONZE_REJECTED = TableSpec(
    namespace="bronze",
    name="futures_trades_rejected",
    doc="Frames whose structure was refused, byte for byte, with the reason; append-only.",
    columns=(
        Column("raw", "binary", "the frame as received"),
        Column("reason", "string", "code: detail"),
        Column("stream", "string", "the connection's stream, where known"),
        Column("ingest_ts", TIME, "when the frame was received"),
        Column("kafka_topic", "string", "Kafka topic"),
        *_KAFKA,
    ),
    partition=("ingest_ts", "day"),
    properties={"write.distribution-mode": "none", "write.spark.fanout.enabled": "true"},
)

BRONZE_GAPS = TableSpec(
    namespace="bronze",
    name="futures_trade_gaps",
    doc="Trades that the producer saw to be missing, by the exchange's ids: a row a gap, and what became of it.",
    columns=(
        Column("exchange", "string", "such as binance_futures"),
        Column("symbol", "string", "the exchange's symbol"),
        Column("stream", "string", "trade or aggTrade: whose ids they are"),
        Column("first_missing_id", "long", "first id that did not come"),
        Column("last_missing_id", "long", "last one"),
        Column("ids_missing", "long", "how many of them did not come yet"),
        Column("missing_after", TIME, "event time of the trade before"),
        Column("missing_before", TIME, "event time of the trade behind"),
        Column("detected_at", TIME, "when the producer saw it, by its own clock"),
        Column("closed_at", TIME, "when nothing was missing any more; empty while the gap is open"),
        Column("closed_by", "string", "what brought the last of the trades: stream or rest"),
        Column(
            "outcome",
            "string",
            "arrived: every trade came later; repaired: fetched from the exchange's history; "
            "not_order_book: the exchange tells no such trades",
        ),
        Column("kafka_partition", "int", "partition of the symbol's trades; of a closed gap"),
        Column("kafka_offset", "long", "the trades that closed the gap are below this offset"),
        Column("updated_at", TIME, "when the row last changed; outside all equality"),
        Column("ids_not_order_book", "long", "of the ids, those that are no trades of the order book"),
        Column("open_because", "string", "why it is not repaired: needs_key, beyond_limit, not_at_exchange, rejected"),
        Column("rejected_reason", "string", "why the first of its trades was rejected, as code: detail"),
        Column("rejected_contract_version", "int", "version of the contract that rejected it"),
        Column("dead_letter_partition", "int", "of its dead letter, on the topic of rejected frames"),
        Column("dead_letter_offset", "long", "of its dead letter; the key of its row in futures_trades_rejected"),
    ),
    key=("exchange", "symbol", "stream", "first_missing_id"),
    partition=("missing_after", "month"),
    rewritten=True,
)

BRONZE_KLINES = TableSpec(
    namespace="bronze",
    name="futures_klines_1m",
    doc="The exchange's own one-minute bars, to hold Silver against.",
    columns=(
        Column("symbol", "string", "the exchange's symbol"),
        Column("open_time", TIME, "open time of the minute"),
        Column("open", PRICE, "first price"),
        Column("high", PRICE, "highest price"),
        Column("low", PRICE, "lowest price"),
        Column("close", PRICE, "last price"),
        Column("volume", VOLUME, "base currency"),
        Column("close_time", TIME, "last millisecond of the minute"),
        Column("quote_volume", QUOTE_VOLUME, "quote currency"),
        Column("trades", "long", "single trades"),
        Column("taker_buy_volume", VOLUME, "base currency bought by takers"),
        Column("taker_buy_quote_volume", QUOTE_VOLUME, "quote currency spent by buying takers"),
        Column("source", "string", "where it was read: rest or archive"),
        Column("updated_at", TIME, "when the row last changed; outside all equality"),
    ),
    key=("symbol", "open_time"),
    partition=("open_time", "day"),
    rewritten=True,
)

SILVER_OHLCV = TableSpec(
    namespace="silver",
    name="futures_ohlcv_1m",
    doc="Exact one-minute bars, gated by blocking checks.",
    columns=columns(BAR_MEASURES),
    key=("symbol", "window_start"),
    partition=("window_start", "day"),
    rewritten=True,
)

SILVER_QUARANTINE = TableSpec(
    namespace="silver",
    name="futures_trades_quarantine",
    doc="Trades that broke a quality rule, with the rule's name; append-only.",
    columns=(
        *CONTRACT,
        Column("rule", "string", "name of the first rule that the trade broke"),
        Column("run_id", "string", "the run that found it"),
        Column("source_snapshot", "long", "Bronze snapshot that was read"),
    ),
    partition=("event_time", "day"),
)

SILVER_KLINE_DIFFERENCES = TableSpec(
    namespace="silver",
    name="futures_kline_differences",
    doc="Where a complete bar and the exchange's own differ: a row a field, with both values.",
    columns=(
        Column("symbol", "string", "the exchange's symbol"),
        Column("window_start", TIME, "open time of the minute"),
        Column("field", "string", "name of the field; `bar` where one of the two has no bar"),
        Column("ours", QUOTE_VOLUME, "value in silver.futures_ohlcv_1m"),
        Column("official", QUOTE_VOLUME, "value in bronze.futures_klines_1m"),
        Column("tolerated", "boolean", "within the stated tolerance of bars made of aggregates"),
        Column("updated_at", TIME, "when the row last changed; outside all equality"),
    ),
    key=("symbol", "window_start", "field"),
    partition=("window_start", "day"),
    rewritten=True,
)

GOLD_DAILY = TableSpec(
    namespace="gold",
    name="futures_daily_stats",
    doc="Daily statistics per symbol, from Silver.",
    columns=columns(DAILY_MEASURES),
    key=("symbol", "trade_date"),
    partition=("trade_date", "month"),
    rewritten=True,
)


BRONZE_FEAR_GREED_RAW = raw_answers("fear_greed_raw", "Answers of the Fear & Greed index, as received.")

BRONZE_COINGECKO_RAW = raw_answers("coingecko_raw", "Answers of CoinGecko, as received.")

SILVER_FEAR_GREED = TableSpec(
    namespace="silver",
    name="fear_greed_daily",
    doc="The Fear & Greed index, a UTC day a row.",
    columns=FEAR_GREED,
    key=("index_date",),
    rewritten=True,
)

SILVER_COINGECKO_MARKETS = TableSpec(
    namespace="silver",
    name="coingecko_markets",
    doc="Coins by market cap, a snapshot an hour; in US dollars.",
    columns=COINGECKO_MARKETS,
    key=("snapshot_hour", "coin_id"),
    partition=("snapshot_hour", "day"),
    rewritten=True,
)

SILVER_COINGECKO_GLOBAL = TableSpec(
    namespace="silver",
    name="coingecko_global",
    doc="All coins together, a snapshot an hour; in US dollars.",
    columns=COINGECKO_GLOBAL,
    key=("snapshot_hour",),
    partition=("snapshot_hour", "month"),
    rewritten=True,
)

OPS_COVERAGE = TableSpec(
    namespace="ops",
    name="stream_coverage",
    doc="What was received without a hole, in exchange time, and where Kafka or the archive holds it.",
    columns=(
        Column("exchange", "string", "such as binance_futures"),
        Column("symbol", "string", "the exchange's symbol"),
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
        Column("duration_ms", "long", "wall time"),
        Column("source_snapshot", "long", "snapshot that was read"),
        Column("snapshot", "long", "snapshot that was committed, if any"),
        Column("finished_at", TIME, "when the run finished"),
        Column("rows_rejected", "long", "frames refused by the producer that were received in the partition's hour"),
        Column("passed", "boolean", "whether the blocking checks passed; nothing is written when they fail"),
    ),
    partition=("finished_at", "month"),
)

TABLES = (
    BRONZE_TRADES,
    BRONZE_REJECTED,
    BRONZE_GAPS,
    BRONZE_KLINES,
    SILVER_OHLCV,
    SILVER_QUARANTINE,
    SILVER_KLINE_DIFFERENCES,
    GOLD_DAILY,
    BRONZE_FEAR_GREED_RAW,
    BRONZE_COINGECKO_RAW,
    SILVER_FEAR_GREED,
    SILVER_COINGECKO_MARKETS,
    SILVER_COINGECKO_GLOBAL,
    *MARKET_TABLES,
    OPS_COVERAGE,
    OPS_RUN_METRICS,
)

POOLED_TABLES = (
    SILVER_OHLCV,
    GOLD_DAILY,
    BRONZE_KLINES,
    BRONZE_FEAR_GREED_RAW,
    BRONZE_COINGECKO_RAW,
    SILVER_FEAR_GREED,
    SILVER_COINGECKO_MARKETS,
    SILVER_COINGECKO_GLOBAL,
    *POOLED_MARKET_TABLES,
)
"""Tables that runs of the graph write, each one run at a time."""


ARCHIVE_POOL = "bronze_futures_trades_archive"
"""The Dagster pool of the runs that load the archive into `BRONZE_TRADES`."""

MARTS_NAMESPACE = "marts"
"""Where dbt makes its tables; their columns are in `dbt_project/`."""

MARTS_POOL = MARTS_NAMESPACE
"""The Dagster pool of dbt's runs: one of them merges at a time."""


def pools() -> tuple[str, ...]:
    """Every Dagster pool of the graph."""
    return (*(table.writer_pool for table in POOLED_TABLES), ARCHIVE_POOL, MARTS_POOL)


def namespaces() -> Iterator[str]:
    """Every namespace once, in order of the tables; dbt's comes last."""
    yield from dict.fromkeys([*(table.namespace for table in TABLES), MARTS_NAMESPACE])


def table_properties(spec: TableSpec) -> dict[str, str]:
    """Iceberg table properties: the common ones and the table's own."""
    return {**_COMMON, "comment": spec.doc, **spec.properties}
