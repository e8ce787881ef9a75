"""Recorded single trades of a capture directory, indexed by id, for REST's `historicalTrades`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.reader import read_frames, summarise
from cryptolake_assets.model.exchange_records import HistoricalTrade
from cryptolake_assets.model.markets import Venue
from cryptolake_assets.replay.recorded_store import Parameters, RecordedStore

_ORDER_BOOK = "MARKET"
_SELECT = "SELECT id, price, qty, time_ms, maker FROM trades WHERE symbol = ? AND time_ms <= ? "


class TradeStore(RecordedStore):
    """Index of the order-book trades (`X` is `MARKET`, and all of Spot) in a directory's `trade` frames.

    Insurance-fund and ADL trades are excluded, as the exchange documents.
    """

    _SCHEMA = """
        CREATE TABLE trades (
            symbol TEXT, id INTEGER, price TEXT, qty TEXT, time_ms INTEGER, maker INTEGER, PRIMARY KEY (symbol, id)
        ) WITHOUT ROWID;
    """
    _INSERT = "INSERT OR IGNORE INTO trades VALUES (?, ?, ?, ?, ?, ?)"

    def __init__(self, directory: Path, venue: Venue) -> None:
        super().__init__(directory)
        self._venue = venue

    def from_id(self, symbol: str, from_id: int, until_ms: int, limit: int) -> list[HistoricalTrade]:
        """Return trades with id >= `from_id` and time <= `until_ms`, ascending by id."""
        return self._trades(_SELECT + "AND id >= ? ORDER BY id LIMIT ?", (symbol, until_ms, from_id, limit))

    def latest(self, symbol: str, until_ms: int, limit: int) -> list[HistoricalTrade]:
        """Return the last trades up to `until_ms` (inclusive), ascending by id."""
        return self._trades(_SELECT + "ORDER BY id DESC LIMIT ?", (symbol, until_ms, limit))[::-1]

    def _trades(self, query: str, parameters: Parameters) -> list[HistoricalTrade]:
        rows = self._select(query, parameters)
        return [
            HistoricalTrade(trade_id, price, qty, time_ms, bool(maker)) for trade_id, price, qty, time_ms, maker in rows
        ]

    def _recorded(self) -> Iterator[Parameters]:
        if not any("trade" in streams for streams in summarise(self._directory).trade_streams.values()):
            return
        unnamed = self._venue.unnamed_trade_type
        for frame in read_frames(self._directory):
            if '"trade"' not in frame.raw:
                continue
            parsed = parse_frame(frame.raw, ingest_time_us=0, exchange="", unnamed_trade_type=unnamed)
            # An invalid frame is replayed, but records no trade.
            if isinstance(parsed, AcceptedFrame) and parsed.event.stream == "trade":
                event = parsed.event
                if event.trade_type == _ORDER_BOOK:
                    time_ms, maker = event.event_time // 1000, event.side == "sell"
                    yield event.symbol, event.trade_id, event.price, event.qty, time_ms, maker
