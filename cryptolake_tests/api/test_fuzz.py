"""The OpenAPI document held against the API, with made-up requests: no 5xx, nothing that the document does not say.

`make fuzz` does the same with 10,000 cases.
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
from cryptolake_assets.model.bar_tables import SILVER_OHLCV
from cryptolake_assets.model.trade_tables import BRONZE_TRADES
from cryptolake_tests.support.api import Api, append, make_marts, put_days, serving, starts, trade
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
ELSEWHERE = {"/sse/ohlcv", "/operations/assets", "/quality/checks"}
"""The first does not end by itself (test_live.py reads it); the others ask Dagster (test_dagster_live.py has one)."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
WITHOUT_PARAMETERS = 1
"""Of the paths: there is one request to make of it."""
FEW_REQUESTS: tuple[list[str], ...] = ([], ["format"])
"""What a path takes of which there are fewer requests than are tried of others."""
EXAMPLES = max(4, -(-CASES // (len(PATHS) - WITHOUT_PARAMETERS) // len(MODES)))


@pytest.fixture(scope="module")
def api(empty_lakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A lake in which every table exists and has rows."""
    bars = open_copy(empty_lakes, tmp_path_factory.mktemp("fuzz"))
    put_days(bars)
    make_marts(bars)
    append(bars, BRONZE_TRADES, [trade("BTCUSDT", number, starts()[0]) for number in range(3)])
    minutes = load_table(bars, SILVER_OHLCV).scan().to_arrow()
    for timeframe in ("5m", "1d"):
        load = get_catalog(bars).load_table(("marts", f"ohlcv_{timeframe}"))
        load.append(minutes.cast(load.schema().as_arrow()))
    with serving(bars) as made:
        yield made


def document(api: Api) -> Any:
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


def test_every_path_is_tried(api: Api) -> None:
    described = document(api).raw_schema["paths"]
    assert set(described) == {*PATHS, *ELSEWHERE}
    assert sum("parameters" not in described[path]["get"] for path in PATHS) == WITHOUT_PARAMETERS


@pytest.mark.parametrize("path", PATHS)
def test_the_api_keeps_to_its_document(api: Api, path: str) -> None:
    operation = document(api)[path]["GET"]
    takes = [parameter["name"] for parameter in operation.definition.raw.get("parameters", ())]
    for mode in MODES if takes else MODES[:1]:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize="CRYPTOLAKE_FUZZ_CASES" not in os.environ,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(made: list[Any], case: Any) -> None:
            made.append(case)
            case.call_and_validate()

        made: list[Any] = []
        check(made)
        assert len(made) >= (EXAMPLES if takes not in FEW_REQUESTS else 1)
