"""Order books between Arrow and the core: rows of Bronze as updates and snapshots, books as rows of Silver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.model.book_seconds import BANDS_BPS, BookSecond, Checkpoint, GapOfBook, Top
from cryptolake_assets.model.order_book import BookGap, BookSnapshot, DepthUpdate, Levels
from cryptolake_assets.model.table_spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 2_000  # updates as Python objects at a time
CROSSED, MISSING_UPDATES = "crossed", "missing_updates"  # reasons of gaps
_EXACT: Final = Context(prec=80)
_NO_VALUES: Final = (None,) * (8 + 4 * len(BANDS_BPS))


def updates_of(rows: pa.Table) -> Iterator[DepthUpdate]:
    """Yield the updates of one symbol by (event time, final id), duplicates included."""
    ordered = rows.sort_by([("event_time", "ascending"), ("final_update_id", "ascending")])
    for batch in ordered.to_batches(max_chunksize=BATCH_ROWS):
        yield from map(
            DepthUpdate,
            _epochs_us(batch["event_time"]),
            batch["first_update_id"].to_pylist(),
            batch["final_update_id"].to_pylist(),
            batch["previous_update_id"].to_pylist(),
            _levels(batch["bids"]),
            _levels(batch["asks"]),
        )


def snapshots_of(rows: pa.Table) -> list[BookSnapshot]:
    """Return the exchange's snapshots of one symbol, without duplicates."""
    batch = rows.combine_chunks()
    found = {
        last_id: BookSnapshot.of_exchange(last_id, bids, asks)
        for last_id, bids, asks in zip(
            batch["last_update_id"].to_pylist(), _levels(_one(batch["bids"])), _levels(_one(batch["asks"])), strict=True
        )
    }
    return list(found.values())


def tops_of(rows: pa.Table) -> dict[int, Top]:
    """Return the tops of one symbol's book tickers by update id."""
    columns = [units(_one(rows[name])) for name in ("bid_price", "bid_qty", "ask_price", "ask_qty")]
    return dict(zip(rows["update_id"].to_pylist(), zip(*columns, strict=True), strict=True))


def checkpoints_of(rows: pa.Table) -> dict[tuple[str, str], Checkpoint]:
    """Return the checkpoint of each (exchange, symbol); the newest if there are several."""
    found: dict[tuple[str, str], Checkpoint] = {}
    ordered = rows.sort_by("window_start").combine_chunks()
    lows, highs = (
        [None if value is None else _units(value) for value in ordered[name].to_pylist()]
        for name in ("lowest_bid", "highest_ask")
    )
    times_us, event_times_us = _epochs_us(ordered["window_start"]), _epochs_us(ordered["event_time"])
    for index, (exchange, symbol, bids, asks) in enumerate(
        zip(
            ordered["exchange"].to_pylist(),
            ordered["symbol"].to_pylist(),
            _levels(_one(ordered["bids"])),
            _levels(_one(ordered["asks"])),
            strict=True,
        )
    ):
        found[exchange, symbol] = Checkpoint(
            times_us[index],
            event_times_us[index],
            BookSnapshot(ordered["last_update_id"][index].as_py(), bids, asks, lows[index], highs[index]),
        )
    return found


def gaps_of(rows: pa.Table) -> dict[tuple[str, str], GapOfBook]:
    """Return the newest gap of each (exchange, symbol)."""
    ordered = rows.sort_by("window_start")
    from_us, next_us = _epochs_us(ordered["window_start"]), _epochs_us(ordered["next_event_time"])
    return {
        (row["exchange"], row["symbol"]): GapOfBook(
            from_us[index],
            BookGap(row["after_update_id"], row["before_update_id"]),
            next_us[index],
            is_crossed=row["reason"] == CROSSED,
        )
        for index, row in enumerate(ordered.to_pylist())
    }


def second_rows(spec: TableSpec, exchange: str, symbol: str, seconds: Iterable[BookSecond]) -> pa.Table:
    """Return the seconds of a symbol as rows of its table, without `updated_at`."""
    rows = [
        (
            exchange,
            symbol,
            second.start_us,
            *_values_of(second),
            second.updates,
            second.is_synced,
            None,
        )
        for second in seconds
    ]
    return _table(spec, rows)


def checkpoint_rows(spec: TableSpec, exchange: str, symbol: str, checkpoints: Sequence[Checkpoint]) -> pa.Table:
    """Return the checkpoints of a symbol as rows of their table."""
    rows = [
        (
            exchange,
            symbol,
            one.time_us,
            one.book.last_id,
            one.event_time_us,
            _decimal(one.book.lowest_bid),
            _decimal(one.book.highest_ask),
            _level_rows(one.book.bids),
            _level_rows(one.book.asks),
            None,
        )
        for one in checkpoints
    ]
    return _table(spec, rows)


def gap_rows(spec: TableSpec, exchange: str, symbol: str, gaps: Sequence[GapOfBook]) -> pa.Table:
    """Return the gaps of a symbol as rows of their table."""
    rows = [
        (
            exchange,
            symbol,
            gap.from_us,
            gap.ids.after_id,
            gap.ids.before_id,
            gap.next_us,
            gap.synced_us,
            CROSSED if gap.is_crossed else MISSING_UPDATES,
            None,
        )
        for gap in gaps
    ]
    return _table(spec, rows)


def units(decimals: pa.Array) -> list[int]:
    """Return decimals of eight places as integers of 10^-8; no value may be null."""
    import numpy as np

    words = np.frombuffer(decimals.buffers()[1], dtype="<i8").reshape(-1, 2)
    words = words[decimals.offset : decimals.offset + len(decimals)]
    low, high = words[:, 0], words[:, 1]
    if not high.any() and (low >= 0).all():
        found: list[int] = low.tolist()
        return found
    return [(top << 64) | (bottom & (2**64 - 1)) for bottom, top in words.tolist()]


def _levels(sides: pa.Array) -> list[Levels]:
    """Return the levels of each row."""
    import pyarrow.compute as pc

    flat = sides.flatten()
    prices, quantities = (units(pc.struct_field(flat, name)) for name in ("price", "qty"))
    levels = list(zip(prices, quantities, strict=True))
    found: list[Levels] = []
    begin = 0
    for length in pc.list_value_length(sides).to_pylist():
        found.append(levels[begin : begin + length])
        begin += length
    return found


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if hasattr(combined, "chunks") and combined.num_chunks else combined


def _epochs_us(times: Any) -> list[int]:
    import pyarrow as pa

    found: list[int] = times.cast(pa.int64()).to_pylist()
    return found


def _values_of(second: BookSecond) -> tuple[Decimal | None, ...]:
    values = second.values
    if values is None:
        return _NO_VALUES
    return (
        values.bid_price,
        values.bid_qty,
        values.ask_price,
        values.ask_qty,
        values.mid,
        values.spread_bps,
        values.microprice,
        values.imbalance,
        *(band.qty for band in values.bid_bands),
        *(band.notional for band in values.bid_bands),
        *(band.qty for band in values.ask_bands),
        *(band.notional for band in values.ask_bands),
    )


def _units(value: Decimal) -> int:
    return int(value.scaleb(8))


def _decimal(value: int | None) -> Decimal | None:
    return None if value is None else _EXACT.scaleb(Decimal(value), -8)


def _level_rows(levels: Levels) -> list[dict[str, Decimal | None]]:
    return [{"price": _decimal(price), "qty": _decimal(quantity)} for price, quantity in levels]


def _table(spec: TableSpec, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Return rows with the columns of a table; times are µs since 1970."""
    import pyarrow as pa

    schema = spec.arrow_schema()
    if not rows:
        return schema.empty_table()
    columns = [
        pa.array(column, pa.int64()).cast(field.type)
        if pa.types.is_timestamp(field.type)
        else pa.array(column, field.type)
        for column, field in zip(zip(*rows, strict=True), schema, strict=True)
    ]
    return pa.table(columns, schema=schema)
