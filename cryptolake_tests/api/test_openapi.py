"""The OpenAPI document: routes, errors and examples."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal

import jsonschema_rs
from prometheus_client.parser import text_string_to_metric_families

from cryptolake_assets.api import schemas
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.settings import PROJECT_ROOT, Settings
from cryptolake_tests.support.api import Api, make_marts

ROUTES_OF_MARTS = ("/returns/daily", "/profile/hourly", "/overview", "/sentiment/market")


def test_openapi_document_describes_every_route(shared_api: Api) -> None:
    document = json.loads(shared_api.get("/openapi.json").content)
    assert {"/ohlcv/{timeframe}", "/trades", "/stats/daily", "/gaps", "/quality", "/catalog", "/symbols"} <= set(
        document["paths"]
    )
    assert document["components"]["schemas"]["Bar"]["properties"]["open"]["anyOf"][0]["type"] == "string"


def test_every_route_has_an_example_that_fits_its_schema(shared_api: Api) -> None:
    """The examples are written by `scripts/api_examples.py`."""
    document = json.loads(shared_api.get("/openapi.json").content)
    examples = schemas.examples()
    assert set(document["paths"]) == set(examples)
    with_schema = set()
    for path, example in examples.items():
        content = document["paths"][path]["get"]["responses"]["200"]["content"]
        described = content[schemas.example_media_type(content)]
        assert described["example"] == example
        if "schema" in described:
            schema = {**described["schema"], "components": document["components"]}
            assert not list(jsonschema_rs.validator_for(schema).iter_errors(example)), path
            with_schema.add(path)
    assert set(examples) - with_schema == {"/metrics"}


def test_examples_of_tables_have_the_columns_of_the_tables(api: Api, bars: Settings) -> None:
    """Examples of the marts, whose rows have no schema in the document."""
    make_marts(bars)
    api.refresh()
    examples = schemas.examples()
    for path in ROUTES_OF_MARTS:
        ((rows_name, (row, *_)),) = [item for item in examples[path].items() if isinstance(item[1], list)]
        text = api.get(path, params={"format": "csv"}).text
        assert list(row) == text.strip().replace('"', "").split(","), (path, rows_name)


def test_examples_of_metrics_and_events_parse_and_match_the_routes(shared_api: Api) -> None:
    examples = schemas.examples()
    documented = {family.name for family in text_string_to_metric_families(examples["/metrics"])}
    served = {family.name for family in text_string_to_metric_families(shared_api.get("/metrics").text)}
    assert {"cryptolake_api_requests", "cryptolake_table_rows", "cryptolake_stream_lag_records"} <= documented
    assert served <= documented
    event, data = examples["/sse/ohlcv"].strip().splitlines()
    message = json.loads(data.removeprefix("data: "))
    assert (event, message["type"]) == ("event: ohlcv", "snapshot")
    with shared_api.stream("GET", "/sse/ohlcv?symbols=BTCUSDT") as response:
        first = json.loads(next(line for line in response.iter_lines() if line.startswith("data: "))[6:])
    assert (list(message), list(message["bars"][0])) == (list(first), list(first["bars"][0]))


def test_examples_match_the_recorded_trades() -> None:
    (example,) = schemas.examples()["/ohlcv/{timeframe}"]["bars"]
    start = datetime.fromisoformat(example["window_start"])
    volume, trades = Decimal(0), 0
    for frame in read_frames(PROJECT_ROOT / "cryptolake_assets/captures/demo_capture"):
        data = json.loads(frame.raw).get("data", {})
        if data.get("s") == "BTCUSDT" and data["X"] == "MARKET" and data["T"] // 60_000 * 60 == start.timestamp():
            volume, trades = volume + Decimal(data["q"]), trades + 1
    assert (Decimal(example["volume"]), example["trades"]) == (volume, trades)


def test_document_describes_problems_of_all_routes_alike(shared_api: Api) -> None:
    document = json.loads(shared_api.get("/openapi.json").content)
    problems = {
        (path, int(status)): response["content"]
        for path, operations in document["paths"].items()
        for status, response in operations["get"]["responses"].items()
        if int(status) >= 400 and path != "/health"
    }
    assert {path for path, _ in problems} == set(document["paths"]) - {"/health"}
    assert problems == {(path, status): schemas.error_responses(status)[status]["content"] for path, status in problems}
    rejected = shared_api.get("/ohlcv/1m?symbol=BTCUSDT&limit=0").json()
    schema = {"$ref": "#/components/schemas/ProblemDetails", "components": document["components"]}
    assert jsonschema_rs.validator_for(schema).is_valid(rejected)
    assert rejected["errors"][0]["parameter"] == "limit"
