"""Tables of order books: depth updates, snapshots and book tickers as received, and the books made of them. Pure.

A stream's Bronze columns are the fields of its event in `events`, in order, followed by the Kafka position.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptolake_assets.model.book_seconds import BANDS_BPS
from cryptolake_assets.model.columns import (
    EXCHANGE,
    FRACTION,
    LEVELS,
    PRICE,
    QUANTITY,
    QUOTE_VOLUME,
    SYMBOL,
    TIME,
    UNITS,
    UPDATED_AT,
    VOLUME,
    Column,
)
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.table_spec import TableSpec, stream_table

DERIVED = QUOTE_VOLUME  # quotients, rounded half up
_INGEST_TS = Column("ingest_ts", TIME, "receive time, by the receiver's clock")
_SENT = "time of the message by the exchange"
_TRANSACTION_TIME = Column("transaction_time", TIME, "time of the matching engine; empty on Spot")


def depth_updates_table(family: Family) -> TableSpec:
    """Return the table of changed levels: one row per depth event."""
    return stream_table(
        f"{family}_depth_updates",
        "All depth updates as received, including duplicates; append-only.",
        (
            SYMBOL,
            Column("event_time", TIME, _SENT),
            _TRANSACTION_TIME,
            Column("first_update_id", "long", "first update id of the event"),
            Column("final_update_id", "long", "last update id of the event"),
            Column("previous_update_id", "long", "last update id of the previous event; empty on Spot"),
            Column("bids", LEVELS, "changed bids: price and new quantity; a quantity of 0 removes the level"),
            Column("asks", LEVELS, "changed asks: price and new quantity; a quantity of 0 removes the level"),
            EXCHANGE,
            _INGEST_TS,
        ),
    )


def depth_snapshots_table(family: Family) -> TableSpec:
    """Return the table of REST snapshots, from which books start."""
    return stream_table(
        f"{family}_depth_snapshots",
        "Snapshots of order books from the exchange's REST interface; append-only.",
        (
            SYMBOL,
            Column("event_time", TIME, f"{_SENT}; empty on Spot"),
            _TRANSACTION_TIME,
            Column("last_update_id", "long", "last update id that the snapshot contains"),
            Column("bids", LEVELS, "bids: price and quantity, from the top"),
            Column("asks", LEVELS, "asks: price and quantity, from the top"),
            EXCHANGE,
            _INGEST_TS,
        ),
        partition_time="ingest_ts",
    )


def book_tickers_table(family: Family) -> TableSpec:
    """Return the table of best prices: the exchange's own word on the top of the book."""
    is_spot = family is Family.SPOT
    return stream_table(
        f"{family}_book_tickers",
        "All book tickers (best bid and ask) as received, including duplicates; append-only.",
        (
            SYMBOL,
            Column("event_time", TIME, "empty: Spot's tickers have no time" if is_spot else _SENT),
            _TRANSACTION_TIME,
            Column("update_id", "long", "update id of the book"),
            Column("bid_price", PRICE, "best bid"),
            Column("bid_qty", QUANTITY, "quantity at the best bid, base currency; contracts on COIN-M"),
            Column("ask_price", PRICE, "best ask"),
            Column("ask_qty", QUANTITY, "quantity at the best ask, base currency; contracts on COIN-M"),
            EXCHANGE,
            _INGEST_TS,
        ),
        partition_time="ingest_ts" if is_spot else "event_time",
    )


def _bands() -> Iterator[Column]:
    for side in ("bid", "ask"):
        for name, kind, what in (("qty", VOLUME, "quantity"), ("notional", QUOTE_VOLUME, "price times quantity")):
            for bps in BANDS_BPS:
                doc = f"{what} of the {side}s within {bps} bps of mid; empty beyond the known price range"
                yield Column(f"{side}_{name}_{bps}bps", kind, doc)


def book_1s_table(family: Family) -> TableSpec:
    """Return the table of books by the second."""
    return TableSpec(
        namespace="silver",
        name=f"{family}_book_1s",
        doc="The order book at the end of each second: after the last update whose event time lies before it.",
        columns=(
            EXCHANGE,
            SYMBOL,
            Column("window_start", TIME, "start of the second"),
            Column("bid_price", PRICE, "best bid"),
            Column("bid_qty", QUANTITY, "quantity at the best bid, base currency; contracts on COIN-M"),
            Column("ask_price", PRICE, "best ask"),
            Column("ask_qty", QUANTITY, "quantity at the best ask, base currency; contracts on COIN-M"),
            Column("mid", DERIVED, "(bid_price + ask_price) / 2", own_unit=UNITS[PRICE]),
            Column("spread_bps", DERIVED, "10000 * (ask_price - bid_price) / mid", own_unit="bps"),
            Column(
                "microprice",
                DERIVED,
                "(bid_price * ask_qty + ask_price * bid_qty) / (bid_qty + ask_qty)",
                own_unit=UNITS[PRICE],
            ),
            Column("imbalance", DERIVED, "(bid_qty - ask_qty) / (bid_qty + ask_qty)", own_unit=FRACTION),
            *_bands(),
            Column("updates", "long", "depth updates of the second"),
            Column(
                "is_synced", "boolean", "no update is missing before the end of the second; if false, no book is known"
            ),
            UPDATED_AT,
        ),
        key=("exchange", "symbol", "window_start"),
        partition=("window_start", "hour"),
        rewritten=True,
        pooled=True,
    )


def book_checkpoints_table(family: Family) -> TableSpec:
    """Return the table of whole books, from which a book at any instant is rebuilt."""
    return TableSpec(
        namespace="silver",
        name=f"{family}_book_checkpoints",
        doc="Whole books at intervals, rebuilt from snapshots and updates; a book at an instant starts from one.",
        columns=(
            EXCHANGE,
            SYMBOL,
            Column("window_start", TIME, "instant of the book"),
            Column("last_update_id", "long", "update id of the book"),
            Column("event_time", TIME, "event time of that update"),
            Column("lowest_bid", PRICE, "lower end of the known price range; empty: all bids are known"),
            Column("highest_ask", PRICE, "upper end of the known price range; empty: all asks are known"),
            Column("bids", LEVELS, "bids, from the top; below `lowest_bid` only those that updates have set"),
            Column("asks", LEVELS, "asks, from the top; above `highest_ask` only those that updates have set"),
            UPDATED_AT,
        ),
        key=("exchange", "symbol", "window_start"),
        partition=("window_start", "hour"),
        rewritten=True,
        writers=(f"silver/{family}_book_1s",),
    )


def book_gaps_table(family: Family) -> TableSpec:
    """Return the table of intervals without a book."""
    return TableSpec(
        namespace="silver",
        name=f"{family}_book_gaps",
        doc="Intervals without a book: updates are missing, or their book was crossed, until the next snapshot.",
        columns=(
            EXCHANGE,
            SYMBOL,
            Column("window_start", TIME, "event time of the last sound update"),
            Column("after_update_id", "long", "final id of the last sound update"),
            Column("before_update_id", "long", "first id of the next update"),
            Column("next_event_time", TIME, "event time of the next update"),
            Column("synced_at", TIME, "event time of the update that a snapshot joins; empty while there is none"),
            Column("reason", "string", "missing_updates, or crossed"),
            UPDATED_AT,
        ),
        key=("exchange", "symbol", "window_start", "after_update_id"),
        partition=("window_start", "hour"),
        rewritten=True,
        writers=(f"silver/{family}_book_1s",),
    )
