"""Recorded aggregate trades of a capture directory, indexed by id and time. Never derived from single trades."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec

from cryptolake_assets.captures.published_files import read_agg_trade_files
from cryptolake_assets.captures.reader import read_frames, summarise
from cryptolake_assets.model.exchange_records import AggTrade
from cryptolake_assets.replay.recorded_store import Parameters, RecordedStore

_SCHEMA = """
CREATE TABLE agg_trades (
    symbol TEXT, id INTEGER, price TEXT, qty TEXT, first_id INTEGER, last_id INTEGER, time_ms INTEGER, maker INTEGER,
    PRIMARY KEY (symbol, id)
) WITHOUT ROWID;
CREATE INDEX agg_trades_time ON agg_trades (symbol, time_ms, id);
"""
_SELECT = "SELECT id, price, qty, first_id, last_id, time_ms, maker FROM agg_trades WHERE symbol = ? "

_Decimal = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
_Integer = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_TradeId = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 53)]  # -1 in an aggregate id without a trade


class _AggTradeEvent(msgspec.Struct, tag_field="e", tag="aggTrade"):
    s: str
    a: _Integer
    p: _Decimal
    q: _Decimal
    f: _TradeId
    l: _TradeId  # noqa: E741 - the exchange's own name
    T: _Integer
    m: bool


class _Combined(msgspec.Struct):
    data: _AggTradeEvent


_decode_combined = msgspec.json.Decoder(_Combined).decode
_decode_event = msgspec.json.Decoder(_AggTradeEvent).decode


class AggregateStore(RecordedStore):
    """Index of the aggregates in a directory's CSV files and recorded `aggTrade` frames."""

    _SCHEMA = _SCHEMA
    _INSERT = "INSERT OR IGNORE INTO agg_trades VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

    def from_id(self, symbol: str, from_id: int, until_ms: int, limit: int) -> list[AggTrade]:
        """Return aggregates with id >= `from_id` and time <= `until_ms`, ascending by id."""
        return self._aggregates(
            _SELECT + "AND id >= ? AND time_ms <= ? ORDER BY id LIMIT ?", (symbol, from_id, until_ms, limit)
        )

    def between(self, symbol: str, start_ms: int, end_ms: int, limit: int) -> list[AggTrade]:
        """Return the first aggregates in [start_ms, end_ms], ascending by time and id."""
        return self._aggregates(
            _SELECT + "AND time_ms BETWEEN ? AND ? ORDER BY time_ms, id LIMIT ?", (symbol, start_ms, end_ms, limit)
        )

    def latest(self, symbol: str, until_ms: int, limit: int) -> list[AggTrade]:
        """Return the last aggregates up to `until_ms` (inclusive), ascending by time and id."""
        rows = self._aggregates(
            _SELECT + "AND time_ms <= ? ORDER BY time_ms DESC, id DESC LIMIT ?", (symbol, until_ms, limit)
        )
        return rows[::-1]

    def _aggregates(self, query: str, parameters: Parameters) -> list[AggTrade]:
        return [
            AggTrade(agg_id, price, qty, first_id, last_id, time_ms, bool(maker))
            for agg_id, price, qty, first_id, last_id, time_ms, maker in self._select(query, parameters)
        ]

    def _recorded(self) -> Iterator[Parameters]:
        # The exchange's files come first, so that they take precedence over recorded frames with the same id.
        for symbol, row in chain(read_agg_trade_files(self._directory), _recorded_agg_trades(self._directory)):
            yield (symbol, *astuple(row))


def _recorded_agg_trades(directory: Path) -> Iterator[tuple[str, AggTrade]]:
    if not any("aggTrade" in streams for streams in summarise(directory).trade_streams.values()):
        return
    for frame in read_frames(directory):
        if '"aggTrade"' not in frame.raw:
            continue
        try:
            event = _decode_combined(frame.raw).data if '"data"' in frame.raw else _decode_event(frame.raw)
        except (msgspec.MsgspecError, RecursionError):
            continue  # an invalid frame is replayed, but records no trade
        yield event.s, AggTrade(event.a, event.p, event.q, event.f, event.l, event.T, event.m)
