"""The recorded order books of one symbol on USD-M, Spot and COIN-M, and their reconstruction by plain dicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from cryptolake_assets.binance.book_ticker_frames import book_ticker_parser
from cryptolake_assets.binance.depth_frames import depth_parser, parse_snapshot
from cryptolake_assets.captures.book_snapshots import read_snapshots
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.model.columns import LEVELS, TIME, decimal_digits
from cryptolake_assets.model.events import BookTickerEvent, DepthSnapshotEvent, DepthUpdateEvent
from cryptolake_assets.model.markets import VENUES, Family, Market
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings

BOOKS = Path(__file__).parents[1] / "data" / "books"
BANDS_BPS = (5, 10, 25, 50)
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

BookEvent = DepthUpdateEvent | DepthSnapshotEvent | BookTickerEvent


def recorded_events(market: Market) -> list[BookEvent]:
    """Return the events of the market's capture: updates and tickers in order of arrival, then the snapshot."""
    venue = VENUES[market]
    parsers = [depth_parser(venue), book_ticker_parser(venue)]
    found: list[BookEvent] = []
    for frame in read_frames(BOOKS / market):
        kind = '"bookTicker"' in frame.raw or "@bookTicker" in frame.raw[:40]
        if "@depth" in frame.raw[:40] or kind:
            event = parsers[kind](frame.raw.encode(), frame.receive_time_ns // 1000)
            assert isinstance(event, DepthUpdateEvent | BookTickerEvent), event
            found.append(event)
    for snapshot in read_snapshots(BOOKS / market):
        parsed = parse_snapshot(
            snapshot.body.encode(), snapshot.symbol, venue.exchange, snapshot.receive_time_ns // 1000
        )
        assert isinstance(parsed, DepthSnapshotEvent), parsed
        found.append(parsed)
    return found


def append_events(settings: Settings, family: Family, events: Sequence[BookEvent]) -> None:
    """Append the events to their Bronze tables, as the stream stores them."""
    tables = settings.of_family(family).tables
    for kind, spec in (
        (DepthUpdateEvent, tables.depth_updates),
        (DepthSnapshotEvent, tables.depth_snapshots),
        (BookTickerEvent, tables.book_tickers),
    ):
        if rows := [_row(spec, event) for event in events if isinstance(event, kind)]:
            load_table(settings, spec).append(pa.Table.from_pylist(rows, schema=spec.arrow_schema()))


def _row(spec: TableSpec, event: BookEvent) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    for column in spec.columns:
        value = values.get(column.name)
        if value is None:
            continue
        if column.type == TIME:
            values[column.name] = EPOCH + value * MICROSECOND
        elif column.type == LEVELS:
            values[column.name] = [{"price": Decimal(price), "qty": Decimal(qty)} for price, qty in value]
        elif decimal_digits(column.type):
            values[column.name] = Decimal(value)
    return values


def naive_seconds(events: Iterable[BookEvent]) -> dict[datetime, dict[str, Any]]:
    """Return the values of each finished second from the snapshot on, by plain dicts and decimals."""
    (snapshot,) = (event for event in events if isinstance(event, DepthSnapshotEvent))
    updates = [event for event in events if isinstance(event, DepthUpdateEvent)]
    sides = [{Decimal(price): Decimal(qty) for price, qty in json.loads(bytes(side))} for side in _sides(snapshot)]
    bounds = min(sides[0]), max(sides[1])
    counts = Counter(update.event_time // 10**6 for update in updates)
    found: dict[datetime, dict[str, Any]] = {}
    second: int | None = None
    is_spot = updates[0].previous_update_id is None
    for update in updates:
        if update.final_update_id <= snapshot.last_update_id - (not is_spot):
            continue
        now = update.event_time // 10**6
        if second is not None and now > second:
            values = _values(sides, bounds)
            for each in range(second, now):
                found[EPOCH + each * timedelta(seconds=1)] = values | {"updates": counts[each], "is_synced": True}
        second = now
        for side, changed in zip(sides, _sides(update), strict=True):
            for price, qty in json.loads(bytes(changed)):
                side[Decimal(price)] = Decimal(qty)
                if not Decimal(qty):
                    del side[Decimal(price)]
    return found


def _sides(event: DepthUpdateEvent | DepthSnapshotEvent) -> tuple[msgspec.Raw, msgspec.Raw]:
    return event.bids, event.asks


def _values(sides: Sequence[dict[Decimal, Decimal]], bounds: tuple[Decimal, Decimal]) -> dict[str, Decimal | None]:
    bids, asks = sides
    with localcontext(Context(prec=100, rounding=ROUND_HALF_UP)):
        bid, ask = max(bids), min(asks)
        mid, both = (bid + ask) / 2, bids[bid] + asks[ask]
        found: dict[str, Decimal | None] = {
            "bid_price": bid,
            "bid_qty": bids[bid],
            "ask_price": ask,
            "ask_qty": asks[ask],
            "mid": mid,
            "spread_bps": _rounded(10_000 * (ask - bid) / mid),
            "microprice": _rounded((bid * asks[ask] + ask * bids[bid]) / both),
            "imbalance": _rounded((bids[bid] - asks[ask]) / both),
        }
        for bps in BANDS_BPS:
            lowest, highest = mid - mid * bps / 10_000, mid + mid * bps / 10_000
            for name, within, is_known in (
                ("bid", {price: qty for price, qty in bids.items() if price >= lowest}, lowest >= bounds[0]),
                ("ask", {price: qty for price, qty in asks.items() if price <= highest}, highest <= bounds[1]),
            ):
                notional = sum((price * qty for price, qty in within.items()), Decimal())
                found[f"{name}_qty_{bps}bps"] = sum(within.values(), Decimal()) if is_known else None
                found[f"{name}_notional_{bps}bps"] = notional if is_known else None
    return found


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-16))
