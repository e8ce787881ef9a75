"""The option `--market` of commands that work on one market."""

from __future__ import annotations

from typing import Annotated

import typer

from cryptolake_assets.model.markets import Market
from cryptolake_assets.settings import Settings, get_settings

MarketOption = Annotated[
    Market | None, typer.Option("--market", help="One of the tracked markets. Default: the first one.")
]


def settings_of(market: Market | None) -> Settings:
    """Return the settings of a tracked market; None: of the default market. Raises `BadParameter`."""
    settings = get_settings()
    if market is None:
        return settings
    if market not in settings.tracked_markets:
        raise typer.BadParameter(
            f"{market} is not tracked. Use one of {', '.join(settings.tracked_markets)}, or add it to "
            "CRYPTOLAKE_MARKETS.",
            param_hint="--market",
        )
    return settings.of_market(market)
