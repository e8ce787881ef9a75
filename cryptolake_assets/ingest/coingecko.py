"""CoinGecko: current coins by market cap, and totals of the crypto market. Pure.

Source: https://docs.coingecko.com (`/coins/markets`, `/global`). A snapshot belongs to the hour of its request.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from cryptolake_assets.captures.recorded_names import COINGECKO_GLOBAL_FILE
from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.http.json_reader import Fields, array_of, parse_json, typed
from cryptolake_assets.ingest.batch_source import BatchSource, ParsedResponse, Plan, RequestScope, Row
from cryptolake_assets.model.source_tables import (
    BRONZE_COINGECKO_RAW,
    SILVER_COINGECKO_GLOBAL,
    SILVER_COINGECKO_MARKETS,
)
from cryptolake_assets.model.windows import hour_of

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings

MARKETS, GLOBAL = "markets", "global"
PER_PAGE = 250
KEY_HEADER = "x-cg-demo-api-key"
# CoinGecko's field names and the table's column names; each may be missing.
_NUMBERS = {
    "current_price": "price",
    "market_cap": "market_cap",
    "fully_diluted_valuation": "fully_diluted_valuation",
    "total_volume": "total_volume",
    "high_24h": "high_24h",
    "low_24h": "low_24h",
    "price_change_percentage_24h": "price_change_percentage_24h",
    "circulating_supply": "circulating_supply",
    "total_supply": "total_supply",
    "max_supply": "max_supply",
    "ath": "all_time_high",
    "atl": "all_time_low",
}


class CoinGecko(BatchSource):
    """Source without history: a run for an earlier day sends no request."""

    name = "coingecko"
    title = "CoinGecko"
    raw = BRONZE_COINGECKO_RAW
    silver = (SILVER_COINGECKO_MARKETS, SILVER_COINGECKO_GLOBAL)
    recorded = COINGECKO_GLOBAL_FILE
    has_history = False

    def base_url(self, settings: Settings) -> str:
        return settings.coingecko_base_url

    def headers(self, settings: Settings) -> dict[str, str]:
        key = settings.coingecko_api_key.get_secret_value()
        return {KEY_HEADER: key} if key else {}

    def calls_a_minute(self, settings: Settings) -> int:
        return settings.coingecko_calls_a_minute

    def is_available(self, settings: Settings) -> bool:
        return bool(settings.coingecko_url) or super().is_available(settings)

    def plan(self, settings: Settings, scope: RequestScope) -> Plan:
        if scope.day >= scope.clock.date():
            yield from plan(settings.coingecko_pages)

    def parse(self, endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        return (parse_markets if endpoint == MARKETS else parse_global)(body, hour_of(asked_at))


SOURCE = CoinGecko()


def plan(pages: int) -> Plan:
    """Request pages of coins until one is rejected or not full, then the market totals."""
    for page in range(1, pages + 1):
        query: dict[str, str | int] = {
            "vs_currency": "usd",
            "order": "market_cap_desc",
            "per_page": PER_PAGE,
            "page": page,
        }
        parsed = yield HttpRequest("/coins/markets", query, endpoint=MARKETS)
        if parsed is None or len(parsed.rows[SILVER_COINGECKO_MARKETS.name]) + len(parsed.rejected_rows) < PER_PAGE:
            break
    yield HttpRequest("/global", endpoint=GLOBAL)


def parse_markets(body: bytes, hour: datetime) -> ParsedResponse:
    """Return rows of `silver.coingecko_markets`; a malformed coin is rejected with its reason.

    Raises `ResponseRejectedError` if no coin can be parsed, because the response then has another shape.
    """
    rows: list[Row] = []
    rejected_rows: list[str] = []
    coin_ids: set[str] = set()
    for number, item in enumerate(array_of(parse_json(body), "response")):
        place = f"response[{number}]"
        try:
            row = _coin(Fields(item, place), hour)
            place = str(row["coin_id"])
            if place in coin_ids:
                raise ResponseRejectedError("duplicate coin id")
            coin_ids.add(place)
            _check_signs(row)
            rows.append(typed(row, SILVER_COINGECKO_MARKETS))
        except (ResponseRejectedError, ValueError) as error:
            rejected_rows.append(f"{place}: {error}")
    if rejected_rows and not coin_ids:
        raise ResponseRejectedError(rejected_rows[0])
    return ParsedResponse({SILVER_COINGECKO_MARKETS.name: rows}, tuple(rejected_rows))


def parse_global(body: bytes, hour: datetime) -> ParsedResponse:
    """Return the single row of `silver.coingecko_global`. Raises `ResponseRejectedError`."""
    data = Fields(parse_json(body), "response").object("data")
    shares = data.object("market_cap_percentage")
    row = {
        "snapshot_hour": hour,
        "total_market_cap": data.object("total_market_cap").number("usd"),
        "total_volume": data.object("total_volume").number("usd"),
        "btc_dominance": shares.number("btc"),
        "eth_dominance": shares.number("eth"),
        "market_cap_change_percentage_24h": data.number("market_cap_change_percentage_24h_usd", optional=True),
        "active_cryptocurrencies": data.integer("active_cryptocurrencies"),
        "markets": data.integer("markets"),
        "source_updated_at": data.seconds("updated_at"),
    }
    try:
        _check_signs(row)
        _check_shares(row)
        return ParsedResponse({SILVER_COINGECKO_GLOBAL.name: [typed(row, SILVER_COINGECKO_GLOBAL)]})
    except ValueError as error:
        raise ResponseRejectedError(str(error)) from None


def _coin(coin: Fields, hour: datetime) -> Row:
    return {
        "snapshot_hour": hour,
        **{column: coin.text(name) for name, column in (("id", "coin_id"), ("symbol", "symbol"), ("name", "name"))},
        "market_cap_rank": coin.integer("market_cap_rank", optional=True),
        **{column: coin.number(name, optional=True) for name, column in _NUMBERS.items()},
        "source_updated_at": coin.moment("last_updated", optional=True),
    }


def _check_signs(row: Row) -> None:
    """Raise `ValueError` with the column for a negative number that is not a change, or a rank below 1."""
    for name, value in row.items():
        if isinstance(value, Decimal | int) and "change" not in name and value < (name == "market_cap_rank"):
            raise ValueError(f"{name} is {str(value)[:60]}")


def _check_shares(row: Row) -> None:
    for name in ("btc_dominance", "eth_dominance"):
        if row[name] > 100:
            raise ValueError(f"{name} is {str(row[name])[:60]}, more than 100 percent")
