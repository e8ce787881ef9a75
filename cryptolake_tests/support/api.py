"""A lake with bars of two symbols on three days, and its API: in process, and as a server on a socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pyarrow as pa
import uvicorn
from fastapi import FastAPI

from cryptolake_assets.api.app import create_app
from cryptolake_assets.api.http_server import OPTIONS, unsent_bytes
from cryptolake_assets.api.live import Hub
from cryptolake_assets.api.page_reader import Reader
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.commit import publish
from cryptolake_assets.lake.filters import silver_day
from cryptolake_assets.model import mart_tables
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FUTURES
from cryptolake_assets.model.markets import EXCHANGES, SPOT, USD_M
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.waiting import wait_for

FIRST_DAY = datetime(2025, 1, 30, tzinfo=UTC)
DAYS = 3
MINUTES = 4
SYMBOLS = ("BTCUSDT", "ETHUSDT")
FUTURES_EXCHANGE, SPOT_EXCHANGE = USD_M.exchange, SPOT.exchange


def bar(symbol: str, start: datetime, **changes: Any) -> dict[str, Any]:
    """Return a bar whose numbers identify its minute; its volumes are the smallest possible."""
    number = int(start.timestamp()) // 60 % 1000
    row: dict[str, Any] = {
        **dict.fromkeys(("open", "high", "low", "close", "vwap"), Decimal(number)),
        **dict.fromkeys(("volume", "taker_buy_volume"), Decimal("0.00000001")),
        **dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), Decimal("0.0000000000000001")),
        **dict.fromkeys(("trades", "first_trade_id", "last_trade_id"), number),
    }
    return {
        **row,
        "exchange": FUTURES_EXCHANGE,
        "symbol": symbol,
        "window_start": start,
        "is_complete": True,
        "updated_at": None,
        "trades_dropped": 0,
        **changes,
    }


def put(lake: Settings, rows: list[dict[str, Any]]) -> int:
    """Publish bars of one day and one market family as a Silver run does; return the snapshot id."""
    spec = FAMILY_TABLES[EXCHANGES[rows[0]["exchange"]].family].bars
    candidate = pa.Table.from_pylist(rows, schema=spec.arrow_schema())
    window = silver_day(rows[0]["window_start"])
    keys = candidate.select(list(spec.key))
    published = publish(load_table(lake, spec), spec, window, candidate, keys, {"run": "test"})
    assert published.snapshot_id is not None
    return published.snapshot_id


def starts() -> list[datetime]:
    """Return the open times of each symbol's bars: the first minutes of each day."""
    return [FIRST_DAY + timedelta(days=day, minutes=minute) for day in range(DAYS) for minute in range(MINUTES)]


def put_days(lake: Settings) -> None:
    """Publish the bars of `starts()` for each symbol in one snapshot, one file per day as Silver runs write them."""
    now = datetime.now(UTC)
    append(lake, FUTURES.bars, [bar(symbol, start, updated_at=now) for start in starts() for symbol in SYMBOLS])


def trade(symbol: str, trade_id: int, event_time: datetime) -> dict[str, Any]:
    """Return a row of Bronze."""
    return {
        **dict.fromkeys(("trade_id", "first_trade_id", "last_trade_id"), trade_id),
        **dict.fromkeys(("event_time", "ingest_ts", "kafka_timestamp"), event_time),
        **{"symbol": symbol, "price": Decimal("0.00000001"), "qty": Decimal(1), "side": "buy", "stream": "trade"},
        **{"exchange": FUTURES_EXCHANGE, "trade_type": "MARKET", "kafka_partition": 0, "kafka_offset": trade_id},
    }


def append(lake: Settings, spec: TableSpec, rows: list[dict[str, Any]]) -> None:
    load_table(lake, spec).append(pa.Table.from_pylist(rows, schema=spec.arrow_schema()))


def make_marts(lake: Settings) -> None:
    """Create the marts as empty tables."""
    specs = [value for value in vars(mart_tables).values() if isinstance(value, TableSpec)]
    for spec in (*specs, *mart_tables.BARS_OF_TIMEFRAMES):
        get_catalog(lake).create_table(spec.identifier, spec.iceberg_schema(), location=None)


class Api(httpx.Client):
    """A client of a running API, with access to its reader and hub."""

    def __init__(self, url: str, app: FastAPI, server: uvicorn.Server) -> None:
        super().__init__(base_url=url, trust_env=False, timeout=30)
        self.url = url
        self.reader: Reader = app.state.reader
        self.hub: Hub = app.state.hub
        self._server = server

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._server.server_state.connections)

    def unsent_bytes(self) -> int:
        """Return the size of the data that waits for clients to read."""
        return unsent_bytes(self._server.server_state)

    def refresh(self) -> None:
        """Refresh the API's table cache from the catalog now."""
        self.reader.table_cache.refresh()


@contextmanager
def serving(settings: Settings, port: int = 0, **changes: Any) -> Iterator[Api]:
    """Serve the API on a socket, in its own thread."""
    app = create_app(settings.model_copy(update=changes))
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, **{**OPTIONS, "log_level": "error", "timeout_graceful_shutdown": 1}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started or not thread.is_alive(), poll_s=0.005)
    assert server.started
    try:
        with Api(f"http://127.0.0.1:{listener.getsockname()[1]}", app, server) as api:
            yield api
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()
        assert not thread.is_alive()
