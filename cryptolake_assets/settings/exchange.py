"""Settings of the markets, and of gap repair by their REST history."""

from __future__ import annotations

from typing import Annotated

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from cryptolake_assets.model.family_tables import FAMILY_TABLES, FamilyTables
from cryptolake_assets.model.markets import VENUES, Family, Market, Venue
from cryptolake_assets.settings.graph import named


class ExchangeSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    market: Market = named(
        "CRYPTOLAKE_MARKET",
        Market.USD_M,
        "Tracked market: `usdm` (USD-M futures), `coinm` (COIN-M futures) or `spot`; see docs/markets.md.",
    )
    markets: Annotated[tuple[Market, ...], NoDecode] = named(
        "CRYPTOLAKE_MARKETS",
        (),
        "Tracked markets, separated by commas, such as `usdm,spot,coinm`; the first is the default of the API and of "
        "symbols without a market. Empty: the market of CRYPTOLAKE_MARKET; if it is not set either, those of the "
        "replayed capture.",
    )
    binance_api_key: SecretStr = named(
        "CRYPTOLAKE_BINANCE_API_KEY",
        SecretStr(""),
        "API key of the exchange, without any permission; the history of single trades requires one. Empty: gaps of "
        "single trades are not repaired; aggregates need no key.",
    )
    rest_weight_share: float = named(
        "CRYPTOLAKE_REST_WEIGHT_SHARE",
        0.5,
        "Maximum share of the exchange's request weight (2,400 per minute for futures) for gap repair.",
        gt=0,
        le=1,
    )
    gap_repair_max_ids: int = named(
        "CRYPTOLAKE_GAP_REPAIR_MAX_IDS",
        500_000,
        "Maximum ids of a gap to repair, the newest ones; the rest remains an open gap, for the public archive.",
        ge=1,
    )

    @field_validator("markets", mode="before")
    @classmethod
    def _split_markets(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value

    @field_validator("markets")
    @classmethod
    def _distinct_markets(cls, value: tuple[Market, ...]) -> tuple[Market, ...]:
        return tuple(dict.fromkeys(value))

    @property
    def tracked_markets(self) -> tuple[Market, ...]:
        """The markets that the platform tracks; the first is the default."""
        return self.markets or (self.market,)

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of the tracked markets."""
        return tuple(dict.fromkeys(VENUES[market].family for market in self.tracked_markets))

    @property
    def family_markets(self) -> tuple[Market, ...]:
        """The tracked markets of the market's family."""
        return tuple(market for market in self.tracked_markets if VENUES[market].family is self.venue.family)

    @property
    def venue(self) -> Venue:
        """The venue of the market: its URLs and paths."""
        return VENUES[self.market]

    @property
    def tables(self) -> FamilyTables:
        """The tables of the market's family."""
        return FAMILY_TABLES[self.venue.family]
