"""Open interest of Binance USD-M futures: the current value, and five-minute statistics. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api (Open Interest; Open
Interest Statistics: at most 500 rows per page, the latest 30 days only, 1000 calls in five minutes). Values are text;
the statistics' times are numbers, although the documentation shows text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from cryptolake_assets.binance.rest_paths import OPEN_INTEREST_HISTORY_PATH, OPEN_INTEREST_PATH
from cryptolake_assets.captures.recorded_names import OPEN_INTEREST_FILES
from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.http.json_reader import Fields, array_of, parse_json, typed
from cryptolake_assets.ingest.batch_source import ParsedResponse, Plan, Row, StoredKeys, parsed_rows
from cryptolake_assets.ingest.futures_rest import FuturesRest, endpoint_of, epoch_ms, symbol_of
from cryptolake_assets.model.derivatives_tables import BRONZE_OPEN_INTEREST_RAW, SILVER_OPEN_INTEREST
from cryptolake_assets.model.source_facts import OPEN_INTEREST_PERIOD
from cryptolake_assets.quality.batch_checks import PERIODS_MISSING, SYMBOLS_BEHIND, periods_missing

if TYPE_CHECKING:
    from cryptolake_assets.quality.candidate_checks import CheckOutcome

PRESENT, HISTORY = "present", "history"
PAGE = 500
# The exchange rejects a start more than 30 days back; the margin allows for the duration of a run.
MAX_HISTORY = timedelta(days=30) - timedelta(minutes=10)
# The clock was read before the request was sent; a statistic may carry the end of its period.
FUTURE_TOLERANCE = timedelta(minutes=6)


class OpenInterest(FuturesRest):
    """Statistics of the last 30 days, which is the exchange's full history, and the current value."""

    name = "futures_open_interest"
    title = "the exchange's open interest"
    raw = BRONZE_OPEN_INTEREST_RAW
    silver = (SILVER_OPEN_INTEREST,)
    recorded = OPEN_INTEREST_FILES
    warning_checks = (PERIODS_MISSING, SYMBOLS_BEHIND)
    max_age = timedelta(hours=2)
    stored_where = f"source = '{HISTORY}'"
    stored_within = MAX_HISTORY

    def requests(
        self, newest: Mapping[str, datetime], day_start: datetime, clock: datetime, symbols: tuple[str, ...]
    ) -> Plan:
        """Yield each symbol's requests for statistics, and for the current value unless the day is over.

        Statistics start at the newest stored one or at `day_start`, whichever is earlier, within the exchange's
        history. A window has no more periods than a page, so the exchange never truncates a page.
        """
        for symbol in symbols:
            oldest = clock - MAX_HISTORY
            start = max(_period(min(newest.get(symbol, oldest), day_start)), _period(oldest) + OPEN_INTEREST_PERIOD)
            while start <= clock:
                end = start + (PAGE - 1) * OPEN_INTEREST_PERIOD
                query: dict[str, str | int] = {
                    "symbol": symbol,
                    "period": "5m",
                    "limit": PAGE,
                    "startTime": epoch_ms(start),
                    "endTime": epoch_ms(min(end, clock)),
                }
                yield HttpRequest(
                    OPEN_INTEREST_HISTORY_PATH, query, endpoint=endpoint_of(OPEN_INTEREST_HISTORY_PATH, symbol)
                )
                start = end + OPEN_INTEREST_PERIOD
            if clock < day_start + timedelta(days=1):
                yield HttpRequest(
                    OPEN_INTEREST_PATH, {"symbol": symbol}, endpoint=endpoint_of(OPEN_INTEREST_PATH, symbol)
                )

    def parse(self, endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        parse = parse_present if endpoint == endpoint_of(OPEN_INTEREST_PATH, symbol_of(endpoint)) else parse_history
        return parse(body, symbol_of(endpoint), asked_at)

    def check_gaps(self, stored: StoredKeys) -> CheckOutcome:
        return periods_missing(stored)


SOURCE = OpenInterest()


def parse_history(body: bytes, symbol: str, asked_at: datetime) -> ParsedResponse:
    """Return rows of `silver.futures_open_interest`, oldest first; a malformed row is rejected with its reason.

    Malformed rows have another symbol, a time off the five-minute grid or a future time, for example. Raises
    `ResponseRejectedError` for another shape.
    """

    def read(item: Any, number: int) -> Row:
        row = Fields(item, f"response[{number}]")
        moment = row.milliseconds("timestamp")
        if _period(moment) != moment:
            raise ResponseRejectedError(f"{moment.isoformat()} is not the start of a five-minute period")
        amount, value = row.quoted("sumOpenInterest"), row.quoted("sumOpenInterestValue")
        return _row(row, symbol, moment, HISTORY, amount, value, asked_at)

    rows, rejected_rows = parsed_rows(array_of(parse_json(body), "response"), "observed_at", read, symbol)
    return ParsedResponse({SILVER_OPEN_INTEREST.name: rows}, tuple(rejected_rows))


def parse_present(body: bytes, symbol: str, asked_at: datetime) -> ParsedResponse:
    """Return the single row of the current value. Raises `ResponseRejectedError`."""
    response = Fields(parse_json(body), "response")
    moment, amount = response.milliseconds("time"), response.quoted("openInterest")
    return ParsedResponse(
        {SILVER_OPEN_INTEREST.name: [_row(response, symbol, moment, PRESENT, amount, None, asked_at)]}
    )


def _row(
    item: Fields,
    symbol: str,
    moment: datetime,
    source: str,
    amount: Decimal | None,
    value: Decimal | None,
    asked_at: datetime,
) -> Row:
    if moment > asked_at + FUTURE_TOLERANCE:
        raise ResponseRejectedError(f"time {moment.isoformat()} is after the exchange's clock, {asked_at.isoformat()}")
    for name, number in (("open_interest", amount), ("open_interest_value", value)):
        if number is not None and number < 0:
            raise ResponseRejectedError(f"{name} {number:f} at {moment.isoformat()} is negative")
    if (named := item.text("symbol")) != symbol:
        raise ResponseRejectedError(f"symbol is {named[:40]!r}, expected {symbol}")
    row = {
        "exchange": OpenInterest.exchange,
        "symbol": symbol,
        "observed_at": moment,
        "source": source,
        "open_interest": amount,
        "open_interest_value": value,
    }
    try:
        return typed(row, SILVER_OPEN_INTEREST)
    except ValueError as error:
        raise ResponseRejectedError(str(error)) from None


def _period(moment: datetime) -> datetime:
    """Return the start of the five-minute period."""
    return moment - (moment - datetime(1970, 1, 1, tzinfo=UTC)) % OPEN_INTEREST_PERIOD
