"""Settings of the market, and of gap repair by its REST history."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from cryptolake_assets.model.markets import VENUES, Market, Venue
from cryptolake_assets.settings.graph import named


class ExchangeSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    market: Market = named(
        "CRYPTOLAKE_MARKET",
        Market.USD_M,
        "Tracked market: `usdm` (USD-M futures), `coinm` (COIN-M futures) or `spot`; see docs/markets.md.",
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

    @property
    def venue(self) -> Venue:
        """The venue of the market: its URLs and paths."""
        return VENUES[self.market]
