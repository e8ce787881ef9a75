"""CoinGecko's example responses as rows, numbers at the limits of their columns, and the requested pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.ingest.batch_source import ParsedResponse
from cryptolake_assets.ingest.coingecko import PER_PAGE, parse_global, parse_markets, plan
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_COINGECKO_MARKETS

RECORDED = Path(__file__).parent / "recorded"
MARKETS = (RECORDED / "coingecko_markets_1.json").read_bytes()
GLOBAL = (RECORDED / "coingecko_global.json").read_bytes()
HOUR = datetime(2026, 6, 1, 12, tzinfo=UTC)


def coins(**changes: Any) -> bytes:
    """Return the recorded coin with other values; text after `#` is written as a number, digit by digit."""
    text = json.dumps([{**json.loads(MARKETS)[0], **changes}])
    for value in changes.values():
        if isinstance(value, str) and value.startswith("#"):
            text = text.replace(f'"{value}"', value[1:])
    return text.encode()


def test_recorded_coins_are_parsed_exactly() -> None:
    parsed = parse_markets(MARKETS, HOUR)
    (row,) = parsed.rows[SILVER_COINGECKO_MARKETS.name]
    assert {*row, "updated_at"} == set(SILVER_COINGECKO_MARKETS.column_names)
    assert (row["coin_id"], row["symbol"], row["snapshot_hour"], row["market_cap_rank"]) == ("bitcoin", "btc", HOUR, 1)
    assert (row["price"], row["market_cap"]) == (Decimal(77671), Decimal(1555886872303))
    assert row["price_change_percentage_24h"] == Decimal("-0.95302")
    assert row["source_updated_at"] == datetime(2026, 5, 18, 12, 49, 21, 599_000, UTC)
    assert parsed.rejected_rows == ()


def test_recorded_market_is_parsed_exactly() -> None:
    (row,) = parse_global(GLOBAL, HOUR).rows[SILVER_COINGECKO_GLOBAL.name]
    assert {*row, "updated_at"} == set(SILVER_COINGECKO_GLOBAL.column_names)
    assert row["total_market_cap"] == Decimal("2621040321355.0405")
    assert row["btc_dominance"] == Decimal("57.9539332566265")
    assert row["source_updated_at"] == datetime(2026, 5, 27, 10, 39, 11, tzinfo=UTC)


def test_digits_beyond_a_floats_precision_are_kept() -> None:
    body = coins(current_price="#0.00000000123456789012345678", market_cap="#123456789012345678.5")
    parsed = parse_markets(body, HOUR)
    (row,) = parsed.rows[SILVER_COINGECKO_MARKETS.name]
    assert f"{row['price']:f}" == "0.00000000123456789012345678"
    assert row["market_cap"] == Decimal("123456789012345678.5")


@pytest.mark.parametrize("price", ["#1e12", "#1e-27", "#1e400", "#0.123456789012345678901234567", "#-1"])
def test_coin_with_a_number_that_does_not_fit_is_rejected_with_its_id(price: str) -> None:
    parsed = parse_markets(coins(current_price=price), HOUR)
    assert parsed.rows[SILVER_COINGECKO_MARKETS.name] == []
    assert len(parsed.rejected_rows) == 1
    assert parsed.rejected_rows[0].startswith("bitcoin: price ")


def test_coin_needs_an_id_but_no_numbers() -> None:
    parsed = parse_markets(coins(max_supply=None, current_price=None, last_updated=None), HOUR)
    (row,) = parsed.rows[SILVER_COINGECKO_MARKETS.name]
    assert (row["max_supply"], row["price"], row["source_updated_at"]) == (None, None, None)
    with pytest.raises(ResponseRejectedError, match=r"response\[0\]\.id"):
        parse_markets(coins(id=None), HOUR)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{}", "expected an array"),
        (b'{"status":{"error_code":429}}', "expected an array"),
        (coins(current_price="77671"), "expected a number"),
        (coins(market_cap_rank=1.5), "expected an integer"),
        (coins(last_updated="yesterday"), "expected a time"),
    ],
)
def test_coins_of_another_shape_are_rejected(body: bytes, reason: str) -> None:
    with pytest.raises(ResponseRejectedError, match=reason):
        parse_markets(body, HOUR)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"symbol": ""}, "response[1].symbol"),
        ({"current_price": "64000.5"}, "response[1].current_price"),
        ({"last_updated": "2026-05-08T12:00:00"}, "response[1].last_updated"),
        ({"id": None}, "response[1].id"),
        ({"id": "bitcoin"}, "bitcoin: duplicate coin id"),
    ],
)
def test_malformed_coin_is_rejected_and_does_not_block_others(change: dict[str, object], reason: str) -> None:
    (sound,) = json.loads(MARKETS)
    page = [sound, {**sound, "id": "malformed"} | change, {**sound, "id": "another"}]
    parsed = parse_markets(json.dumps(page).encode(), HOUR)
    assert [row["coin_id"] for row in parsed.rows[SILVER_COINGECKO_MARKETS.name]] == ["bitcoin", "another"]
    (rejected_rows,) = parsed.rejected_rows
    assert reason in rejected_rows


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"current_price": 1,', '"current_price": NaN,', "response[1].current_price is NaN"),
        ('"current_price": 1,', '"current_price": 1e9999999999999999999,', "response[1].current_price is 1e9999"),
        (
            '"current_price": 1,',
            '"current_price": 1, "current_price": 2,',
            "response[1] is an object with a duplicate key",
        ),
        ('"name": "Malformed"', r'"name": "\ud800"', r"response[1].name is '\ud800'"),
    ],
)
def test_coin_with_invalid_json_does_not_block_others(old: str, new: str, reason: str) -> None:
    (sound,) = json.loads(MARKETS)
    malformed = json.dumps(
        {"current_price": 1, "name": "Malformed"}
        | {**sound, "id": "malformed", "current_price": 1, "name": "Malformed"}
    )
    assert old in malformed
    page = f"[{json.dumps(sound)}, {malformed.replace(old, new)}, {json.dumps({**sound, 'id': 'another'})}]"
    parsed = parse_markets(page.encode(), HOUR)
    rows = parsed.rows[SILVER_COINGECKO_MARKETS.name]
    assert [row["coin_id"] for row in rows] == ["bitcoin", "another"]
    (rejected_rows,) = parsed.rejected_rows
    assert reason in rejected_rows


@pytest.mark.parametrize("name", ["total_market_cap", "market_cap_percentage", "updated_at", "markets"])
def test_market_of_another_shape_is_rejected(name: str) -> None:
    document = json.loads(GLOBAL)
    del document["data"][name]
    with pytest.raises(ResponseRejectedError, match=f"has no {name}"):
        parse_global(json.dumps(document).encode(), HOUR)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [("market_cap_percentage", "btc", 100.5), ("market_cap_percentage", "eth", -1), ("total_volume", "usd", -1)],
)
def test_market_with_impossible_values_is_rejected(place: str, name: str, value: float) -> None:
    document = json.loads(GLOBAL)
    document["data"][place][name] = value
    with pytest.raises(ResponseRejectedError, match=r"is -?1"):
        parse_global(json.dumps(document).encode(), HOUR)


def test_pages_end_after_the_first_partial_one_and_the_market_is_last() -> None:
    def requested(counts: Sequence[int | None]) -> list[tuple[str, Any]]:
        steps, found = plan(3), []
        remaining = iter(counts)
        request = next(steps, None)
        while request is not None:
            found.append((request.endpoint, request.params.get("page")))
            count = next(remaining)
            parsed = None if count is None else ParsedResponse({SILVER_COINGECKO_MARKETS.name: [{}] * count})
            try:
                request = steps.send(parsed)
            except StopIteration:
                request = None
        return found

    assert requested([PER_PAGE] * 3 + [1]) == [("markets", 1), ("markets", 2), ("markets", 3), ("global", None)]
    assert requested([PER_PAGE, 3, 1]) == [("markets", 1), ("markets", 2), ("global", None)]
    assert requested([None, 1]) == [("markets", 1), ("global", None)]
