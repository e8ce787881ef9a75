"""The exchange's own one-minute bars: fetched by the hour into `bronze.futures_klines_1m`, and held against Silver."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import structlog

from cryptolake_assets.exchange.records import Kline
from cryptolake_assets.exchange.rest import ExchangeRest
from cryptolake_assets.exchange.universe import resolve_subscriptions
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, publish, read_window
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.tables import BRONZE_KLINES, SILVER_KLINE_DIFFERENCES, SILVER_OHLCV, TableSpec
from cryptolake_assets.lake.windows import DAY, HOUR, between, day_of
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.completeness import CompletenessIndex
from cryptolake_assets.transform.official import Agreement, hold_against
from cryptolake_assets.transform.ohlcv import MINUTE_MS, epoch_ms

if TYPE_CHECKING:
    import pyarrow as pa

log = structlog.get_logger(__name__)

INTERVAL = "1m"
REST = "rest"
_MONEY = ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


@dataclass(frozen=True)
class FetchedHour:
    """What a run did: official bars that were read, and what of them was new or other than before."""

    hour: datetime
    klines: int
    publication: Publication


def read_klines(settings: Settings, first: datetime, last: datetime) -> dict[tuple[str, int], Kline]:
    """Klines of first <= open time < last, by (symbol, open time in ms)."""
    rows = load_table(settings, BRONZE_KLINES).scan(row_filter=between("open_time", first, last)).to_arrow()
    return {(row["symbol"], epoch_ms(row["open_time"])): _kline(row) for row in rows.to_pylist()}


def fetch_hour(settings: Settings, hour: datetime, run_id: str) -> FetchedHour:
    """Reads the hour's klines of every symbol that is followed, as far as its minutes have closed on the exchange's
    clock, and publishes them by one commit. Raises `ExchangeError` when the exchange does not answer."""
    symbols = _followed(settings, hour)
    with ExchangeRest(settings.rest_url) as exchange:
        closed_ms = exchange.time_ms() // MINUTE_MS * MINUTE_MS
        last_ms = min(epoch_ms(hour + HOUR), closed_ms) - 1
        found = [
            _record(symbol, kline)
            for symbol in symbols
            if last_ms >= epoch_ms(hour)
            for kline in exchange.klines(symbol, INTERVAL, epoch_ms(hour), last_ms)
        ]
    day = day_of(hour)
    window = between("open_time", day, day + DAY)
    publication = _replace(settings, BRONZE_KLINES, window, found, found, run_id)
    log.info("klines_fetched", hour=hour.isoformat(), klines=len(found), changed=publication.rows_changed)
    return FetchedHour(hour, len(found), publication)


def _followed(settings: Settings, hour: datetime) -> list[str]:
    """Symbols that the settings name, and those that were followed in the hour: a choice by pattern or by volume does
    not say which."""
    first_ms, end_ms = epoch_ms(hour), epoch_ms(hour + HOUR)
    covered = {
        row.symbol
        for row in read_coverage(settings)
        if not row.of_archive and row.connected_from_ms < end_ms and row.connected_to_ms > first_ms
    }
    return sorted({*resolve_subscriptions(settings).symbols, *covered})


def judge_hour(settings: Settings, hour: datetime, completeness: CompletenessIndex, run_id: str) -> Agreement:
    """Holds the hour's published bars against the klines, and publishes every difference by one commit; one that is
    gone goes from the table too."""
    silver = load_table(settings, SILVER_OHLCV)
    bars = read_window(silver, between("window_start", hour, hour + HOUR)).to_pylist()
    agreement = hold_against(
        hour, bars, read_klines(settings, hour, hour + HOUR), completeness, settings.kline_tolerance
    )
    of_hour = between("window_start", hour, hour + HOUR)
    before = read_window(load_table(settings, SILVER_KLINE_DIFFERENCES), of_hour).to_pylist()
    if before or agreement.differences:
        day = day_of(hour)
        window = between("window_start", day, day + DAY)
        rows = [{**row, "updated_at": None} for row in agreement.differences]
        _replace(settings, SILVER_KLINE_DIFFERENCES, window, rows, [*before, *rows], run_id)
    return agreement


def _replace(
    settings: Settings,
    spec: TableSpec,
    window: str,
    rows: list[dict[str, Any]],
    replaced: list[dict[str, Any]],
    run_id: str,
) -> Publication:
    """Publishes `rows` in place of those with the keys of `replaced`."""
    keys = _table(spec, replaced).select(list(spec.key))
    return publish(load_table(settings, spec), spec, window, _table(spec, rows), keys, {"cryptolake.run-id": run_id})


def _table(spec: TableSpec, rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=spec.arrow_schema())


def _record(symbol: str, kline: Kline) -> dict[str, Any]:
    """A row of `bronze.futures_klines_1m`."""
    return {
        "symbol": symbol,
        "open_time": _moment(kline.open_time_ms),
        "close_time": _moment(kline.close_time_ms),
        **{name: Decimal(getattr(kline, name)) for name in _MONEY},
        "trades": kline.trades,
        "source": REST,
        "updated_at": None,
    }


def _moment(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch / 1000, UTC)


def _kline(row: dict[str, Any]) -> Kline:
    return Kline(
        open_time_ms=epoch_ms(row["open_time"]),
        close_time_ms=epoch_ms(row["close_time"]),
        trades=row["trades"],
        **{name: f"{row[name]:f}" for name in _MONEY},
    )
