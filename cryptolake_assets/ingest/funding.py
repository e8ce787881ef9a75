"""Funding-rate history of Binance USD-M futures, by symbol and time. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api (Get Funding Rate
History): ascending from `startTime`, both ends included, at most 1000 rows per page; 500 calls in five minutes. Rates
and prices are text; old rows have no mark price.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.binance.rest_paths import FUNDING_PATH
from cryptolake_assets.captures.recorded_names import FUNDING_FILES
from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.http.json_reader import Fields, array_of, parse_json, typed
from cryptolake_assets.ingest.batch_source import ParsedResponse, Plan, Row, StoredKeys, parsed_rows
from cryptolake_assets.ingest.futures_rest import FuturesRest, endpoint_of, epoch_ms, symbol_of
from cryptolake_assets.model.derivatives_tables import BRONZE_FUNDING_RAW, SILVER_FUNDING
from cryptolake_assets.model.source_facts import MAX_FUNDING_RATE
from cryptolake_assets.quality.batch_checks import FUNDING_GAPS, SYMBOLS_BEHIND, funding_gaps

if TYPE_CHECKING:
    from cryptolake_assets.quality.candidate_checks import CheckOutcome

PAGE = 1_000
FIRST = datetime(2019, 9, 1, tzinfo=UTC)  # before the exchange's first funding


class FundingRates(FuturesRest):
    """The first run requests a symbol's full history, later runs the rates since its newest one."""

    name = "futures_funding"
    title = "the exchange's funding rates"
    raw = BRONZE_FUNDING_RAW
    silver = (SILVER_FUNDING,)
    recorded = FUNDING_FILES
    warning_checks = (FUNDING_GAPS, SYMBOLS_BEHIND)
    max_age = timedelta(hours=9)

    def requests(
        self, newest: Mapping[str, datetime], day_start: datetime, clock: datetime, symbols: tuple[str, ...]
    ) -> Plan:
        """Yield each symbol's requests, page by page.

        They request the full history if nothing is stored, else the rates since the newest one or since `day_start`,
        whichever is earlier.
        """
        for symbol in symbols:
            start = min(newest[symbol], day_start) if symbol in newest else FIRST
            while start <= clock:
                query: dict[str, str | int] = {"symbol": symbol, "startTime": epoch_ms(start), "limit": PAGE}
                parsed = yield HttpRequest(FUNDING_PATH, query, endpoint=endpoint_of(FUNDING_PATH, symbol))
                rows = parsed.rows[SILVER_FUNDING.name] if parsed is not None else []
                if parsed is None or not rows or len(rows) + len(parsed.rejected_rows) < PAGE:
                    break
                start = rows[-1]["funding_time"] + timedelta(milliseconds=1)

    def parse(self, endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        return parse_rates(body, symbol_of(endpoint), asked_at)

    def check_gaps(self, stored: StoredKeys) -> CheckOutcome:
        return funding_gaps(stored)


SOURCE = FundingRates()


def parse_rates(body: bytes, symbol: str, asked_at: datetime) -> ParsedResponse:
    """Return rows of `silver.futures_funding_rates`, oldest first; a malformed row is rejected with its reason.

    Malformed rows have another symbol, a future time or an impossible rate, for example. Raises
    `ResponseRejectedError` for another shape.
    """
    items = array_of(parse_json(body), "response")
    rows, rejected_rows = parsed_rows(
        items, "funding_time", lambda item, number: _rate(Fields(item, f"response[{number}]"), symbol, asked_at), symbol
    )
    return ParsedResponse({SILVER_FUNDING.name: rows}, tuple(rejected_rows))


FUTURE_TOLERANCE = timedelta(minutes=1)  # the clock was read before the request was sent


def _rate(item: Fields, symbol: str, asked_at: datetime) -> Row:
    if (named := item.text("symbol")) != symbol:
        raise ResponseRejectedError(f"symbol is {named[:40]!r}, expected {symbol}")
    moment, rate = item.milliseconds("fundingTime"), item.quoted("fundingRate")
    mark_price = item.quoted("markPrice", optional=True)
    if moment > asked_at + FUTURE_TOLERANCE:
        raise ResponseRejectedError(f"time {moment.isoformat()} is after the exchange's clock, {asked_at.isoformat()}")
    row = {
        "exchange": FundingRates.exchange,
        "symbol": symbol,
        "funding_time": moment,
        "funding_rate": rate,
        "mark_price": mark_price,
    }
    if rate is not None and abs(rate) > MAX_FUNDING_RATE:
        raise ResponseRejectedError(f"funding_rate {rate:f} at {moment.isoformat()} is outside ±{MAX_FUNDING_RATE}")
    if mark_price is not None and mark_price <= 0:
        raise ResponseRejectedError(f"mark_price {mark_price:f} at {moment.isoformat()} is not positive")
    try:
        return typed(row, SILVER_FUNDING)
    except ValueError as error:
        raise ResponseRejectedError(str(error)) from None
