"""Minutes of mark prices and liquidations from Bronze on a real catalog: exact, deduplicated, checked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.binance.stream_type import MinuteStream
from cryptolake_assets.binance.stream_types import MINUTE_STREAMS
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication
from cryptolake_assets.quality.stream_minute_checks import minutes_without_row
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.stream_minutes import minutes_of, run_stream_minutes

MARK_PRICE, FORCE_ORDER = MINUTE_STREAMS
HOUR = datetime(2024, 7, 18, 23, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def mark(second: float, price: str, symbol: str = "BTCUSDT", **changes: Any) -> dict[str, Any]:
    at = HOUR + second * SECOND
    row: dict[str, Any] = {"symbol": symbol, "event_time": at, "mark_price": Decimal(price), "index_price": Decimal(5)}
    row |= {"settle_price": None, "funding_rate": Decimal("0.000000000001"), "next_funding_time": HOUR}
    return {**row, "exchange": "binance_futures", "ingest_ts": at, **changes}


def order(second: float, side: str, qty: str, price: str, **changes: Any) -> dict[str, Any]:
    at = HOUR + second * SECOND
    row: dict[str, Any] = {"symbol": "BTCUSDT", "event_time": at, "side": side, "qty": Decimal(qty)}
    row |= {"price": Decimal(price), "average_price": Decimal(price), "filled_qty": Decimal(qty)}
    row |= {"order_type": "LIMIT", "time_in_force": "IOC", "status": "FILLED", "last_filled_qty": Decimal(qty)}
    return {**row, "exchange": "binance_futures", "ingest_ts": at, **changes}


def table(of: MinuteStream, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=of.bronze.arrow_schema())


def append_events(lake: Settings, of: MinuteStream, rows: list[dict[str, Any]]) -> None:
    load_table(lake, of.bronze).append(table(of, rows))


def silver(lake: Settings, of: MinuteStream) -> list[dict[str, Any]]:
    found = load_table(lake, of.silver).scan().to_arrow().to_pylist()
    return sorted(found, key=lambda row: [row[name] for name in of.silver.key])


def test_open_and_close_follow_event_time_and_duplicates_count_once() -> None:
    out_of_order = [
        mark(59.9, "3"),
        mark(0, "2"),
        mark(30, "9", funding_rate=Decimal("-0.1")),
        mark(20, "1"),
        mark(60, "7"),
    ]
    events = [*out_of_order, mark(0, "2", ingest_ts=HOUR + 9 * SECOND), mark(5, "4", "ETHUSDT")]
    events.append(mark(0, "8", exchange="other"))
    rows, distinct = minutes_of(MARK_PRICE, table(MARK_PRICE, events))
    assert distinct == 7
    first, second, other, elsewhere = rows.to_pylist()
    assert (elsewhere["exchange"], elsewhere["symbol"], elsewhere["high"], elsewhere["updates"]) == (
        *("other", "BTCUSDT"),
        *(8, 1),
    )
    prices = [first[name] for name in ("open", "high", "low", "close")]
    assert (prices, first["updates"]) == ([2, 9, 1, 3], 4)
    assert (first["window_start"], second["window_start"]) == (HOUR, HOUR + 60 * SECOND)
    assert (second["open"], second["close"], second["updates"]) == (7, 7, 1)
    assert (other["symbol"], other["open"]) == ("ETHUSDT", 4)
    assert first["funding_rate"] == Decimal("0.000000000001")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["buy", "sell"]),
            st.decimals("0", "9999999999.99999999", places=8),
            st.decimals("0", "9999999999.99999999", places=8),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_sums_of_liquidations_are_exact_by_side(orders: list[tuple[str, Decimal, Decimal]]) -> None:
    from decimal import localcontext

    events = [order(number / 10, side, str(qty), str(price)) for number, (side, qty, price) in enumerate(orders)]
    rows, distinct = minutes_of(FORCE_ORDER, table(FORCE_ORDER, events))
    assert distinct == len(orders)
    with localcontext(prec=60):
        for row in rows.to_pylist():
            of_side = [(qty, price) for side, qty, price in orders if side == row["side"]]
            assert row["orders"] == len(of_side)
            assert row["qty"] == sum(qty for qty, _ in of_side)
            assert row["notional"] == sum(qty * price for qty, price in of_side)


def published(lake: Settings, hour: datetime = HOUR) -> Publication:
    """Refresh an hour of mark prices; assert that it passes."""
    candidate, publication = run_stream_minutes(lake, MARK_PRICE, hour, "run")
    assert publication is not None, [outcome for outcome in candidate.outcomes if not outcome.passed]
    return publication


def test_hour_is_published_by_one_commit_and_unchanged_hour_by_none(lake: Settings) -> None:
    append_events(lake, MARK_PRICE, [mark(0, "2"), mark(61, "3"), mark(3_600, "99")])  # the last is in the next hour
    assert published(lake).rows_changed == 2
    head = load_table(lake, MARK_PRICE.silver).metadata.current_snapshot_id
    assert published(lake).snapshot_id == head
    append_events(lake, MARK_PRICE, [mark(30, "8")])
    assert published(lake).rows_changed == 1
    assert [row["high"] for row in silver(lake, MARK_PRICE)] == [8, 3]
    published(lake, HOUR + timedelta(hours=1))
    assert [row["high"] for row in silver(lake, MARK_PRICE)] == [8, 3, 99]


@pytest.mark.parametrize(
    ("of", "row", "failed"),
    [
        (MARK_PRICE, mark(0, "0"), "prices_positive"),
        (MARK_PRICE, mark(0, "1", index_price=Decimal(-1)), "prices_positive"),
        (MARK_PRICE, mark(0, "1", funding_rate=Decimal("0.2")), "rate_range"),
        (MARK_PRICE, {**mark(0, "1"), "symbol": None}, "no_nulls"),
        (FORCE_ORDER, order(0, "sell", "-1", "5"), "liquidations_not_negative"),
        (FORCE_ORDER, order(0, "both", "1", "5"), "side_known"),
    ],
)
def test_invalid_value_fails_its_check(lake: Settings, of: MinuteStream, row: dict[str, Any], failed: str) -> None:
    append_events(lake, of, [row])
    candidate, publication = run_stream_minutes(lake, of, HOUR, "run")
    assert publication is None
    assert not candidate.passed
    assert failed in [outcome.name for outcome in candidate.outcomes if not outcome.passed]


def test_mark_price_without_funding_rate_passes(lake: Settings) -> None:
    append_events(lake, MARK_PRICE, [mark(0, "2", funding_rate=None, next_funding_time=None)])
    assert published(lake).rows_changed == 1


def test_minute_without_mark_price_warns_and_minute_without_liquidation_does_not(lake: Settings) -> None:
    append_events(lake, MARK_PRICE, [mark(0, "2"), mark(60, "2"), mark(240, "2"), mark(0, "2", "ETHUSDT")])
    append_events(lake, MARK_PRICE, [mark(0, "9", exchange="other"), mark(540, "9", "ZZZUSDT", exchange="other")])
    (outcome,) = run_stream_minutes(lake, MARK_PRICE, HOUR, "run")[0].observations
    assert not outcome.passed
    gap = {
        "exchange": "binance_futures",
        "symbol": "BTCUSDT",
        "after": "2024-07-18 23:01",
        "before": "2024-07-18 23:04",
    }
    assert outcome.failing_rows == [gap]
    append_events(lake, FORCE_ORDER, [order(0, "sell", "1", "1"), order(240, "sell", "1", "1")])
    assert run_stream_minutes(lake, FORCE_ORDER, HOUR, "run")[0].observations == []
    assert minutes_without_row([]).passed
