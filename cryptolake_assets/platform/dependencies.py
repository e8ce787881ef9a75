"""Check before a Silver refresh that the tables, the engine and the exchange are available."""

from __future__ import annotations

from cryptolake_assets.binance.exchange_clock import exchange_clock_ms
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.spark_session import require_server
from cryptolake_assets.model.ops_tables import OPS_COVERAGE, OPS_RUN_METRICS
from cryptolake_assets.quality.bar_checks import DEPENDENCIES
from cryptolake_assets.quality.candidate_checks import CheckOutcome
from cryptolake_assets.settings import Engine, Settings


def check_dependencies(settings: Settings) -> CheckOutcome:
    """Fail if a table of the settings' family cannot be read or the engine does not respond.

    An exchange that does not respond is only reported, because coverage has its clock too.
    """
    own, failing = settings.tables, []
    tables = (own.trades, OPS_COVERAGE, own.bars, own.quarantine, OPS_RUN_METRICS)
    for table in tables:
        try:
            load_table(settings, table)
        except Exception as error:  # catalogs raise errors of many kinds
            failing.append({"part": table.full_name, "cause": f"{type(error).__name__}: {error}"[:300]})
    if settings.engine_in_use is Engine.SPARK:
        try:
            require_server(settings)
        except CryptolakeError as error:
            failing.append({"part": "spark", "cause": str(error)})
    state = "responds" if exchange_clock_ms(settings) is not None else "does not respond"
    return CheckOutcome(
        DEPENDENCIES,
        not failing,
        f"{len(tables)} tables, engine {settings.engine_in_use}; the exchange {state}",
        len(failing),
        failing,
    )
