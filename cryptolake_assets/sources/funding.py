"""Funding-rate history of Binance USD-M futures: what was charged, by symbol and time. Pure.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api (Get Funding Rate
History): ascending from `startTime` on, both ends included, at most 1000 rows a page; 500 calls in five minutes. Rates
and prices are text; old rows have no mark price.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.errors import AnswerRefusedError
from cryptolake_assets.lake.tables_market import BRONZE_FUNDING_RAW, SILVER_FUNDING
from cryptolake_assets.sources.futures_rest import FuturesRest, endpoint_of, epoch_ms, symbol_of
from cryptolake_assets.sources.shape import Fields, array_of, parse_json, typed
from cryptolake_assets.sources.source import Judged, Plan, Row, SourceRequest

if TYPE_CHECKING:
    from cryptolake_assets.lake.table_spec import TableSpec

PATH = "/fapi/v1/fundingRate"
PAGE = 1_000
FIRST = datetime(2019, 9, 1, tzinfo=UTC)
"""Before the exchange's first funding."""


class FundingRates(FuturesRest):
    """See `source.BatchSource`."""

    name = "futures_funding"
    raw: TableSpec = BRONZE_FUNDING_RAW

    def judge(self, endpoint: str, body: bytes, asked_at: datetime) -> Judged:
        return Judged({SILVER_FUNDING.name: parse_rates(body, symbol_of(endpoint), asked_at)})


SOURCE = FundingRates()


def plan(newest: Mapping[str, datetime], wanted: datetime, clock: datetime, symbols: tuple[str, ...]) -> Plan:
    """Each symbol's whole history where nothing of it is held (`newest` has no time of it), otherwise from its newest
    rate or the start of the day that is wanted, whichever is earlier, up to the clock; page by page."""
    for symbol in symbols:
        start = min(newest[symbol], wanted) if symbol in newest else FIRST
        while start <= clock:
            query: dict[str, str | int] = {"symbol": symbol, "startTime": epoch_ms(start), "limit": PAGE}
            judged = yield SourceRequest(endpoint_of(PATH, symbol), PATH, query)
            rows = judged.rows[SILVER_FUNDING.name] if judged is not None else []
            if len(rows) < PAGE:
                break
            start = rows[-1]["funding_time"] + timedelta(milliseconds=1)


def parse_rates(body: bytes, symbol: str, asked_at: datetime) -> list[Row]:
    """Rows of `silver.futures_funding_rates`, oldest first. Raises `AnswerRefusedError` for another shape, another
    symbol, a time that is not after the one before or has not come, and a number that its column cannot hold."""
    rows: list[Row] = []
    for number, item in enumerate(array_of(parse_json(body), "answer")):
        row = _rate(Fields(item, f"answer[{number}]"), symbol)
        moment = row["funding_time"]
        if rows and moment <= rows[-1]["funding_time"]:
            raise AnswerRefusedError(f"{moment.isoformat()} comes after {rows[-1]['funding_time'].isoformat()}")
        if moment > asked_at + FUTURE_TOLERANCE:
            raise AnswerRefusedError(f"{moment.isoformat()} is after the exchange's clock, {asked_at.isoformat()}")
        rows.append(row)
    return rows


FUTURE_TOLERANCE = timedelta(minutes=1)
"""The clock was read before the request was made."""


def _rate(item: Fields, symbol: str) -> Row:
    if (named := item.text("symbol")) != symbol:
        raise AnswerRefusedError(f"a row is of {named[:40]!r}, asked was {symbol}")
    row = {
        "funding_time": item.milliseconds("fundingTime"),
        "symbol": symbol,
        "funding_rate": item.quoted("fundingRate"),
        "mark_price": item.quoted("markPrice", optional=True),
    }
    try:
        return typed(row, SILVER_FUNDING)
    except ValueError as error:
        raise AnswerRefusedError(str(error)) from None
