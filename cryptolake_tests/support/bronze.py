"""Append trades to the real Bronze table and read Silver, for tests without a stream."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.columns import PRICE
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.reference import Trade


def trade(when: datetime, trade_id: int, price: str = "100.5", qty: str = "0.25", **changes: Any) -> Trade:
    """Return a valid BTCUSDT trade of the `trade` stream."""
    row = {
        "symbol": "BTCUSDT",
        "event_time": when,
        "price": Decimal(price),
        "qty": Decimal(qty),
        "side": "buy" if trade_id % 3 else "sell",
        "trade_id": trade_id,
        "exchange": "binance_futures",
        "ingest_ts": when + timedelta(milliseconds=40),
        "first_trade_id": trade_id,
        "last_trade_id": trade_id,
        "trade_type": "MARKET",
        "stream": "trade",
        "kafka_partition": 0,
        "kafka_offset": 0,
        "kafka_timestamp": when,
    }
    return {**row, **changes}


def append(settings: Settings, trades: Iterable[Trade]) -> int:
    """Append trades to the family's Bronze in one commit, as a micro-batch does; return its sequence number."""
    table = load_table(settings, settings.tables.trades)
    table.append(pa.Table.from_pylist(list(trades), schema=settings.tables.trades.arrow_schema()))
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.sequence_number is not None
    return snapshot.sequence_number


def append_narrow(settings: Settings, trades: Iterable[Trade]) -> None:
    """Append trades with quantities of decimal(18,8), as releases before schema 2 wrote them."""
    from pyiceberg.io.pyarrow import _dataframe_to_data_files

    table = load_table(settings, settings.tables.trades)
    spec = settings.tables.trades
    columns = tuple(replace(column, type=PRICE) if column.name == "qty" else column for column in spec.columns)
    narrow = replace(spec, columns=columns)
    schema = narrow.iceberg_schema().model_copy(update={"schema_id": table.schema().schema_id})
    metadata = table.metadata.model_copy(update={"schemas": [schema]})
    rows = pa.Table.from_pylist(list(trades), schema=narrow.arrow_schema())
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
        for file in _dataframe_to_data_files(metadata, rows, table.io, write_uuid=uuid.uuid4()):
            snapshot.append_data_file(file)


def bars(settings: Settings, hour: datetime, hours: int = 1) -> dict[tuple[str, str, datetime], dict[str, Any]]:
    """Return the family's bars from `hour` on, by (exchange, symbol, open time)."""
    end = hour + timedelta(hours=hours)
    rows = run_sql(
        settings,
        f"SELECT * FROM {settings.tables.bars.full_name} "
        f"WHERE window_start >= '{hour.isoformat()}' AND window_start < '{end.isoformat()}'",
    ).to_pylist()
    by_key = {(row["exchange"], row["symbol"], row["window_start"]): row for row in rows}
    assert len(by_key) == len(rows)
    return by_key
