"""Tables of trades: all trades, rejected frames, the gap ledger, the quarantine. Pure.

The same for each market family."""

from __future__ import annotations

from cryptolake_assets.model.columns import EXCHANGE, PRICE, QUANTITY, SYMBOL, TIME, UPDATED_AT, Column
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import APPENDED_BY_SPARK, BRONZE_STREAM, TableSpec, kafka_columns, stream_table

# The event contract: the fields of `events.TradeEvent`, in order, with the lake's types.
TRADE_COLUMNS = (
    SYMBOL,
    Column("event_time", TIME, "trade time"),
    Column("price", PRICE, "trade price"),
    Column("qty", QUANTITY, "traded quantity, base currency; contracts if the exchange is binance_futures_coin"),
    Column("side", "string", "side of the taker: buy or sell"),
    Column("trade_id", "long", "id of the trade or aggregate, in the sequence of its stream"),
    EXCHANGE,
    Column("ingest_ts", TIME, "receive time of the frame or archive file, by the receiver's clock"),
    Column("first_trade_id", "long", "id of the first single trade of an aggregate; trade_id for a single trade"),
    Column("last_trade_id", "long", "id of the last single trade of an aggregate; trade_id for a single trade"),
    Column("trade_type", "string", "trade type (the exchange's field `X`); MARKET is an order-book execution"),
    Column("stream", "string", "trade or aggTrade, each with its own sequence of ids"),
)

_KAFKA_NOTE = "; null for archive trades"
_REJECTED_NOTE = "; null for archive lines"


def trades_table(family: Family) -> TableSpec:
    """Return the table of all trades of a family."""
    return stream_table(
        f"{family}_trades",
        "All trades as received, including duplicates: appended by the stream, and per day from the archive.",
        TRADE_COLUMNS,
        kafka_note=_KAFKA_NOTE,
        writers=(BRONZE_STREAM, f"bronze/{family}_trades_archive"),
    )


def rejected_table(family: Family) -> TableSpec:
    """Return the table of a family's rejected frames."""
    return TableSpec(
        namespace="bronze",
        name=f"{family}_trades_rejected",
        doc="Frames and archive lines rejected for their structure, byte for byte, with the reason; append-only.",
        columns=(
            Column("raw", "binary", "frame or archive line as received"),
            Column("reason", "string", "reason of rejection, as code: detail"),
            Column(
                "stream",
                "string",
                "stream of the frame, such as aggTrade; archive:FILE for archive lines; empty if unknown",
            ),
            Column("ingest_ts", TIME, "receive time of the frame or archive file, by the receiver's clock"),
            Column("kafka_topic", "string", f"Kafka topic of the record{_REJECTED_NOTE}"),
            *kafka_columns(_REJECTED_NOTE),
        ),
        partition=("ingest_ts", "day"),
        writers=(BRONZE_STREAM, f"bronze/{family}_trades_archive"),
        properties=APPENDED_BY_SPARK,
    )


def gaps_table(family: Family) -> TableSpec:
    """Return the gap ledger of a family."""
    return TableSpec(
        namespace="bronze",
        name=f"{family}_trade_gaps",
        doc="Gaps in the exchange's trade ids detected by the producer: one row per gap, with its outcome.",
        columns=(
            EXCHANGE,
            SYMBOL,
            Column("stream", "string", "trade or aggTrade, each with its own sequence of ids"),
            Column("first_missing_id", "long", "first missing id of the gap"),
            Column("last_missing_id", "long", "last missing id of the gap"),
            Column("ids_missing", "long", "number of ids still missing; 0 of an open gap: its end is not known yet"),
            Column("missing_after", TIME, "event time of the last trade before the gap"),
            Column("missing_before", TIME, "event time of the first trade after the gap"),
            Column("detected_at", TIME, "detection time, by the producer's clock"),
            Column("closed_at", TIME, "closing time of the gap; empty while it is open"),
            Column("closed_by", "string", "origin of the last missing trade: stream or rest"),
            Column(
                "outcome",
                "string",
                "outcome of a closed gap: arrived (all trades came late), repaired (fetched from the exchange's "
                "history) or not_order_book (ids without an order-book trade)",
            ),
            Column("kafka_partition", "int", "Kafka partition of the symbol's trades; empty while the gap is open"),
            Column(
                "kafka_offset",
                "long",
                "exclusive upper Kafka offset of the trades that closed the gap; empty while the gap is open",
            ),
            UPDATED_AT,
            Column("ids_not_order_book", "long", "number of ids without an order-book trade"),
            Column(
                "open_because",
                "string",
                "reason that prevents the repair: needs_key, no_history, beyond_limit, not_at_exchange, rejected or "
                "lost_in_kafka",
            ),
            Column("rejected_reason", "string", "reason of rejection of its first rejected trade, as code: detail"),
            Column("rejected_contract_version", "int", "version of the event contract that rejected it"),
            Column("dead_letter_partition", "int", "partition of its dead letter, on the topic of rejected frames"),
            Column(
                "dead_letter_offset",
                "long",
                "offset of its dead letter; identifies its row in the table of rejected frames",
            ),
        ),
        key=("exchange", "symbol", "stream", "first_missing_id"),
        partition=("missing_after", "month"),
        rewritten=True,
        writers=("producer",),
    )


def quarantine_table(family: Family) -> TableSpec:
    """Return the table of a family's quarantined trades."""
    return TableSpec(
        namespace="silver",
        name=f"{family}_trades_quarantine",
        doc="Trades dropped by a quality rule, with the rule's name; append-only.",
        columns=(
            *TRADE_COLUMNS,
            Column("rule", "string", "name of the first violated rule"),
            Column("run_id", "string", "id of the Dagster run"),
            Column("source_snapshot", "long", "id of the Bronze snapshot read"),
        ),
        partition=("event_time", "day"),
        writers=(f"silver/{family}_ohlcv_1m",),
    )
