"""Settings of the batch sources: base URLs, keys and request limits."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


def named(name: str, default: Any, description: str, **constraints: Any) -> Any:
    """Return a field that is read from the environment variable `name`."""
    return Field(default=default, validation_alias=name, description=description, **constraints)


class IngestSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    fear_greed_url: str = named(
        "CRYPTOLAKE_FEAR_GREED_URL",
        "",
        "Base URL of the Fear & Greed index. Empty: the replay exchange, or https://api.alternative.me when live.",
    )
    coingecko_url: str = named(
        "CRYPTOLAKE_COINGECKO_URL",
        "",
        "Base URL of CoinGecko's API. Empty: the replay exchange, or https://api.coingecko.com/api/v3 when live.",
    )
    coingecko_api_key: SecretStr = named(
        "CRYPTOLAKE_COINGECKO_API_KEY", SecretStr(""), "Demo key of CoinGecko's API. Empty: requests without a key."
    )
    coingecko_pages: int = named(
        "CRYPTOLAKE_COINGECKO_PAGES",
        2,
        "Pages per hourly request of CoinGecko, with 250 coins each, by market cap.",
        ge=1,
        le=40,
    )
    coingecko_calls_a_minute: int = named(
        "CRYPTOLAKE_COINGECKO_CALLS_A_MINUTE", 30, "Maximum calls of CoinGecko's API per minute.", ge=1, le=1_000
    )
    futures_calls_a_minute: int = named(
        "CRYPTOLAKE_FUTURES_CALLS_A_MINUTE",
        60,
        "Maximum calls per minute for funding rates, and as many for open interest; each has a weight of 1 of the "
        "exchange's 2,400.",
        ge=1,
        le=100,
    )
