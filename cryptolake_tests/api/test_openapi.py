"""The OpenAPI document: routes, errors and examples."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal

import jsonschema_rs

from cryptolake_assets.api import schemas
from cryptolake_assets.exchange.capture import read_frames
from cryptolake_assets.settings import PROJECT_ROOT
from cryptolake_tests.api.conftest import Api


def test_the_openapi_document_describes_every_route(api: Api) -> None:
    document = json.loads(api.get("/openapi.json").content)
    assert {"/ohlcv/{timeframe}", "/trades", "/stats/daily", "/gaps", "/quality", "/catalog", "/symbols"} <= set(
        document["paths"]
    )
    assert document["components"]["schemas"]["Bar"]["properties"]["open"]["anyOf"][0]["type"] == "string"


def test_the_documents_examples_fit_its_schemas_and_are_of_the_recorded_trades(api: Api) -> None:
    document = json.loads(api.get("/openapi.json").content)
    examples = schemas.examples()
    for path, example in examples.items():
        said = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        assert said["example"] == example
        schema = {**said["schema"], "components": document["components"]}
        assert not list(jsonschema_rs.validator_for(schema).iter_errors(example)), path
    (shown,) = examples["/ohlcv/{timeframe}"]["bars"]
    start = datetime.fromisoformat(shown["window_start"])
    volume, trades = Decimal(0), 0
    for frame in read_frames(PROJECT_ROOT / "cryptolake_assets/exchange/demo_capture"):
        said = json.loads(frame.raw).get("data", {})
        if said.get("s") == "BTCUSDT" and said["X"] == "MARKET" and said["T"] // 60_000 * 60 == start.timestamp():
            volume, trades = volume + Decimal(said["q"]), trades + 1
    assert (Decimal(shown["volume"]), shown["trades"]) == (volume, trades)


def test_the_document_says_a_routes_problems_in_one_way(api: Api) -> None:
    document = json.loads(api.get("/openapi.json").content)
    for path, operations in document["paths"].items():
        for status, answer in operations["get"]["responses"].items():
            if int(status) >= 400 and path != "/health":
                assert answer["content"] == schemas.refusals(int(status))[int(status)]["content"], (path, status)
    refused = api.get("/ohlcv/1m?symbol=BTCUSDT&limit=0").json()
    schema = {"$ref": "#/components/schemas/ProblemDetails", "components": document["components"]}
    assert jsonschema_rs.validator_for(schema).is_valid(refused)
    assert refused["errors"][0]["parameter"] == "limit"
