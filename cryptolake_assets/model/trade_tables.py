"""Tables of trades: all trades, rejected frames, the gap ledger, the quarantine. Pure."""

from __future__ import annotations

from cryptolake_assets.model.columns import EXCHANGE, PRICE, QUANTITY, SYMBOL, TIME, UPDATED_AT, Column
from cryptolake_assets.model.table_spec import APPENDED_BY_SPARK, BRONZE_STREAM, TableSpec, kafka_columns, stream_table

# The event contract: the fields of `events.TradeEvent`, in order, with the lake's types.
TRADE_COLUMNS = (
    Column("symbol", "string", "the exchange's symbol, such as BTCUSDT"),
    Column("event_time", TIME, "trade time"),
    Column("price", PRICE, "quote currency per unit"),
    Column("qty", QUANTITY, "base currency; contracts where the exchange is binance_futures_coin"),
    Column("side", "string", "the taker's: buy or sell"),
    Column("trade_id", "long", "id in its stream's sequence"),
    EXCHANGE,
    Column("ingest_ts", TIME, "when it was received, by the receiver's clock: a frame, or the archive's file"),
    Column("first_trade_id", "long", "first single trade of an aggregate; equals trade_id for a single trade"),
    Column("last_trade_id", "long", "last single trade of an aggregate; equals trade_id for a single trade"),
    Column("trade_type", "string", "the exchange's X: MARKET is an order-book execution"),
    Column("stream", "string", "trade or aggTrade; their ids are different sequences"),
)

_KAFKA_NOTE = "; null in a trade of the archive"

BRONZE_TRADES = stream_table(
    "futures_trades",
    "Every trade as received, repeats included: appended by the stream, and by the day from the archive.",
    TRADE_COLUMNS,
    kafka_note=_KAFKA_NOTE,
    writers=(BRONZE_STREAM, "bronze/futures_trades_archive"),
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
        *kafka_columns(_KAFKA_NOTE),
    ),
    partition=("ingest_ts", "day"),
    writers=(BRONZE_STREAM,),
    properties=APPENDED_BY_SPARK,
)

BRONZE_GAPS = TableSpec(
    namespace="bronze",
    name="futures_trade_gaps",
    doc="Trades that the producer saw to be missing, by the exchange's ids: a row a gap, and what became of it.",
    columns=(
        EXCHANGE,
        SYMBOL,
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
        UPDATED_AT,
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
    writers=("producer",),
)

SILVER_QUARANTINE = TableSpec(
    namespace="silver",
    name="futures_trades_quarantine",
    doc="Trades that broke a quality rule, with the rule's name; append-only.",
    columns=(
        *TRADE_COLUMNS,
        Column("rule", "string", "name of the first rule that the trade broke"),
        Column("run_id", "string", "the run that found it"),
        Column("source_snapshot", "long", "Bronze snapshot that was read"),
    ),
    partition=("event_time", "day"),
    writers=("silver/futures_ohlcv_1m",),
)
