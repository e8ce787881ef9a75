"""Fetch an hour of a family's official bars into Bronze, and compare Silver with them.

Klines from the archive (`ingest.archive_klines`) are final and not requested again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import structlog

from cryptolake_assets.binance.kline_checks import valid_klines, value_problem
from cryptolake_assets.binance.rest import ExchangeRest
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.errors import ExchangeError, ResponseShapeError, UnknownSymbolError
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, publish, read_window
from cryptolake_assets.lake.coverage import streamed_symbols
from cryptolake_assets.lake.filters import between
from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import DAY, HOUR, MINUTE_MS, day_of
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.official_bars import Agreement, compare_with_official
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

log = structlog.get_logger(__name__)

INTERVAL = "1m"
REST = "rest"
ARCHIVE = "archive"
MINUTES_OF_AN_HOUR = 60
_MONEY = ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


@dataclass(frozen=True)
class FetchedHour:
    """Result of a run: number of fetched klines, of archive klines (not requested), and the commit."""

    hour: datetime
    klines: int
    of_archive: int
    publication: Publication
    not_listed: tuple[str, ...] = ()  # symbols that their exchange no longer lists; they do not block others
    rejected_rows: tuple[str, ...] = ()  # rejected klines, each with symbol, open time and reason


@dataclass
class _Fetched:
    klines: list[tuple[str, str, Kline]] = field(default_factory=list)  # with exchange and symbol
    not_listed: list[str] = field(default_factory=list)
    rejected_rows: list[str] = field(default_factory=list)


def read_klines(settings: Settings, first: datetime, last: datetime) -> dict[tuple[str, str, int], Kline]:
    """Return the family's klines of first <= open time < last, by (exchange, symbol, open time in ms)."""
    rows = load_table(settings, settings.tables.klines).scan(row_filter=between("open_time", first, last)).to_arrow()
    return {(row["exchange"], row["symbol"], epoch_ms(row["open_time"])): _kline(row) for row in rows.to_pylist()}


def fetch_hour(settings: Settings, hour: datetime, run_id: str) -> FetchedHour:
    """Fetch the hour's klines of every symbol of the family's tracked markets, and publish them in one commit.

    Skips minutes that have not closed by the exchange clock, klines that the archive has, and invalid klines. Sends no
    request for a market if the archive has all its klines. Raises `ExchangeError` if a market does not respond; the
    klines of the others are published.
    """
    archived = _archived(settings, hour)
    fetched, failure = _Fetched(), None
    for market in map(settings.of_market, settings.family_markets):
        try:
            _fetch_market(market, hour, archived, fetched)
        except ExchangeError as error:
            log.warning("klines_not_fetched", exchange=market.venue.exchange, hour=hour.isoformat(), error=str(error))
            failure = error
    found = [
        record(exchange, symbol, kline, REST)
        for exchange, symbol, kline in fetched.klines
        if (exchange, symbol, kline.open_time_ms) not in archived
    ]
    publication = replace_klines(settings, day_of(hour), found, found, run_id)
    log.info("klines_fetched", hour=hour.isoformat(), klines=len(found), changed=publication.rows_changed)
    if failure is not None:
        raise failure
    return FetchedHour(
        hour,
        len(found),
        len(archived),
        publication,
        tuple(fetched.not_listed),
        rejected_rows=tuple(fetched.rejected_rows),
    )


def replace_klines(
    settings: Settings, day: datetime, rows: list[dict[str, Any]], replaced: list[dict[str, Any]], run_id: str
) -> Publication:
    """Publish `rows`, all of the UTC day, in place of the rows with the keys of `replaced`, in one commit."""
    return _replace(settings, settings.tables.klines, between("open_time", day, day + DAY), rows, replaced, run_id)


def _fetch_market(settings: Settings, hour: datetime, archived: set[tuple[str, str, int]], fetched: _Fetched) -> None:
    """Fetch the klines of the market's symbols that are not all archived."""
    exchange = settings.venue.exchange
    symbols = sorted({*resolve_subscriptions(settings).symbols, *streamed_symbols(settings, hour, hour + HOUR)})
    archive_counts = Counter(symbol for of_exchange, symbol, _ in archived if of_exchange == exchange)
    incomplete = [symbol for symbol in symbols if archive_counts[symbol] < MINUTES_OF_AN_HOUR]
    if incomplete:
        _fetch(settings, hour, incomplete, fetched)


def _fetch(settings: Settings, hour: datetime, symbols: Sequence[str], fetched: _Fetched) -> None:
    """Fetch the symbols' klines of the hour; add them, the unlisted symbols, and the rejected klines to `fetched`."""
    venue, found, rejected_rows = settings.venue, [], []
    shape_error: ResponseShapeError | None = None
    with ExchangeRest(settings.rest_url, venue=venue) as exchange:
        closed_ms = exchange.time_ms() // MINUTE_MS * MINUTE_MS
        last_ms = min(epoch_ms(hour + HOUR), closed_ms) - 1
        if last_ms < epoch_ms(hour):
            return
        for symbol in symbols:
            try:
                klines = exchange.klines(symbol, INTERVAL, epoch_ms(hour), last_ms)
            except UnknownSymbolError as error:
                log.warning("symbol_not_listed", symbol=symbol, hour=hour.isoformat(), error=str(error))
                fetched.not_listed.append(symbol)
                continue
            except ResponseShapeError as error:
                shape_error = error
                rejected_rows.append(f"{symbol}: {error}")
                continue
            valid, rejected = _split_valid(klines, epoch_ms(hour), last_ms + 1)
            found += [(venue.exchange, symbol, kline) for kline in valid]
            rejected_rows += [f"{symbol} {reason}" for reason in rejected]
    if shape_error is not None and not found:
        raise shape_error
    fetched.klines += found
    fetched.rejected_rows += rejected_rows
    if rejected_rows:
        log.warning(
            "klines_rejected",
            exchange=venue.exchange,
            hour=hour.isoformat(),
            klines=len(rejected_rows),
            sample=rejected_rows[:5],
        )


def _split_valid(klines: Sequence[Kline], first_ms: int, end_ms: int) -> tuple[list[Kline], list[str]]:
    """Return the valid klines, by open time, and the open times of the rejected ones with reasons."""
    checked = [(kline, value_problem(list(map(str, kline.to_rest()))) or kline) for kline in klines]
    valid, rejected = valid_klines(checked, "the hour", first_ms, end_ms)
    return valid, [f"{kline.open_time_ms}: {problem}" for kline, problem in rejected]


def _archived(settings: Settings, hour: datetime) -> set[tuple[str, str, int]]:
    """Return (exchange, symbol, open time in ms) of the hour's klines from the archive."""
    rows = load_table(settings, settings.tables.klines).scan(
        row_filter=f"{between('open_time', hour, hour + HOUR)} and source = '{ARCHIVE}'",
        selected_fields=("exchange", "symbol", "open_time"),
    )
    return {(row["exchange"], row["symbol"], epoch_ms(row["open_time"])) for row in rows.to_arrow().to_pylist()}


def judge_hour(settings: Settings, hour: datetime, completeness: CompletenessIndex, run_id: str) -> Agreement:
    """Compare the hour's published bars with the klines, and publish every difference in one commit.

    Differences that no longer exist are removed from the table.
    """
    silver = load_table(settings, settings.tables.bars)
    bars = read_window(silver, between("window_start", hour, hour + HOUR)).to_pylist()
    agreement = compare_with_official(
        hour, bars, read_klines(settings, hour, hour + HOUR), completeness, settings.kline_tolerance
    )
    of_hour = between("window_start", hour, hour + HOUR)
    before = read_window(load_table(settings, settings.tables.kline_differences), of_hour).to_pylist()
    if before or agreement.differences:
        day = day_of(hour)
        window = between("window_start", day, day + DAY)
        rows = [{**row, "updated_at": None} for row in agreement.differences]
        _replace(settings, settings.tables.kline_differences, window, rows, [*before, *rows], run_id)
    return agreement


def _replace(
    settings: Settings,
    spec: TableSpec,
    window: str,
    rows: list[dict[str, Any]],
    replaced: list[dict[str, Any]],
    run_id: str,
) -> Publication:
    """Publish `rows` in place of the rows with the keys of `replaced`."""
    keys = _table(spec, replaced).select(list(spec.key))
    return publish(load_table(settings, spec), spec, window, _table(spec, rows), keys, {"cryptolake.run-id": run_id})


def _table(spec: TableSpec, rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=spec.arrow_schema())


def record(exchange: str, symbol: str, kline: Kline, source: str) -> dict[str, Any]:
    """Return a row of a family's table of klines."""
    return {
        "exchange": exchange,
        "symbol": symbol,
        "open_time": _moment(kline.open_time_ms),
        "close_time": _moment(kline.close_time_ms),
        **{name: Decimal(getattr(kline, name)) for name in _MONEY},
        "trades": kline.trades,
        "source": source,
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
