"""The emitted ledger: trades the exchange has sent so far, whether or not clients received them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.market_of_capture import captured_markets
from cryptolake_assets.captures.reader import read_market_frames
from cryptolake_assets.model.exchange_records import TRADE_STREAMS
from cryptolake_assets.model.markets import EXCHANGES, VENUES, Market
from cryptolake_assets.model.symbols import stream_name

_TRADE_KINDS = tuple(f'"{kind}"' for kind in TRADE_STREAMS)


class EmittedTrade(NamedTuple):
    """A trade or aggregate trade, as in its recorded frame."""

    exchange: str
    symbol: str
    stream: str
    trade_id: int
    price: str
    qty: str
    event_time_us: int  # trade time, µs since 1970, UTC


def emitted_trades(directory: Path, frames: int | None = None) -> Iterator[EmittedTrade]:
    """Yield the trades of the capture's first `frames` frames (None: all), in order; skip frames without a valid trade.

    Raises `CaptureError` if a file is damaged.
    """
    for market, frame in islice(read_market_frames(captured_markets(directory)), frames):
        if not any(kind in frame.raw for kind in _TRADE_KINDS):
            continue  # parsing the order-book frames of a real capture takes ten times as long
        exchange = VENUES[market].exchange
        parsed = parse_frame(frame.raw, ingest_time_us=0, exchange=exchange)
        if isinstance(parsed, AcceptedFrame):
            event = parsed.event
            yield EmittedTrade(
                exchange, event.symbol, event.stream, event.trade_id, event.price, event.qty, event.event_time
            )


def id_ranges(trades: Iterable[EmittedTrade]) -> dict[Market, dict[str, list[tuple[int, int]]]]:
    """Return the ids per market and stream (`btcusdt@aggTrade`) as ascending inclusive ranges."""
    found: dict[Market, dict[str, set[int]]] = {}
    for trade in trades:
        streams = found.setdefault(EXCHANGES[trade.exchange].market, {})
        streams.setdefault(stream_name(trade.symbol, trade.stream), set()).add(trade.trade_id)
    return {
        market: {stream: _ranges(sorted(ids)) for stream, ids in streams.items()} for market, streams in found.items()
    }


def _ranges(ids: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in ids:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
