"""Generated requests against the OpenAPI document: no 5xx, and only documented responses.

`make fuzz` runs the same with 10,000 cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_tests.support.api import (
    SPOT_EXCHANGE,
    Api,
    append,
    bar,
    make_marts,
    put,
    put_days,
    serving,
    starts,
    trade,
)
from cryptolake_tests.support.lakes import open_copy

schemathesis.openapi.format(
    "symbol", st.text(st.characters(categories=["L", "M", "Nd"], include_characters="_-"), min_size=1, max_size=16)
)
CASES = int(os.environ.get("CRYPTOLAKE_FUZZ_CASES", "200"))
PATHS = (
    *("/ohlcv/{timeframe}", "/trades", "/stats/daily", "/returns/daily", "/profile/hourly", "/overview", "/quality"),
    "/quality/klines",
    *(
        "/symbols",
        "/gaps",
        "/gaps/trades",
        "/catalog",
        "/health",
        "/metrics",
        "/quality/rejected",
        "/quality/quarantined",
    ),
    *("/sentiment", "/sentiment/market", "/coins", "/coins/global", "/funding", "/open-interest"),
    *("/mark-price/1m", "/liquidations/1m"),
    "/operations/parts",
)
EXCLUDED = {"/sse/ohlcv", "/operations/assets", "/quality/checks"}
"""An endless stream (tested in test_live.py), and routes that need Dagster (tested in test_dagster_live.py)."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
WITHOUT_PARAMETERS = 1
"""Paths without parameters: only one request is possible."""
FEW_REQUESTS: tuple[list[str], ...] = ([], ["format"])
"""Parameters of paths with fewer possible requests than `EXAMPLES`."""
EXAMPLES = max(4, -(-CASES // (len(PATHS) - WITHOUT_PARAMETERS) // len(MODES)))


@pytest.fixture(scope="module")
def api(empty_lakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Serve a lake with all tables; bars, trades and two marts have rows."""
    bars = open_copy(empty_lakes, tmp_path_factory.mktemp("fuzz"))
    put_days(bars)
    put(bars, [bar("BTCUSDT", starts()[0], exchange=SPOT_EXCHANGE)])
    make_marts(bars)
    append(bars, FUTURES.trades, [trade("BTCUSDT", number, starts()[0]) for number in range(3)])
    minutes = load_table(bars, FUTURES.bars).scan().to_arrow()
    for timeframe in ("5m", "1d"):
        load = get_catalog(bars).load_table(("marts", f"ohlcv_{timeframe}"))
        schema = load.schema().as_arrow()
        load.append(minutes.select(schema.names).cast(schema))
    with serving(bars) as made:
        yield made


def document(api: Api) -> Any:
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


def test_every_path_is_tested(api: Api) -> None:
    described = document(api).raw_schema["paths"]
    assert set(described) == {*PATHS, *EXCLUDED}
    assert sum("parameters" not in described[path]["get"] for path in PATHS) == WITHOUT_PARAMETERS


@pytest.mark.parametrize("path", PATHS)
def test_responses_match_the_document(api: Api, path: str) -> None:
    operation = document(api)[path]["GET"]
    parameters = [parameter["name"] for parameter in operation.definition.raw.get("parameters", ())]
    for mode in MODES if parameters else MODES[:1]:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize="CRYPTOLAKE_FUZZ_CASES" not in os.environ,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(cases: list[Any], case: Any) -> None:
            cases.append(case)
            case.call_and_validate()

        cases: list[Any] = []
        check(cases)
        assert len(cases) >= (EXAMPLES if parameters not in FEW_REQUESTS else 1)
