"""The routes of tables: ranges, pages, snapshots, caching and errors, on real Iceberg tables."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from cryptolake_assets.api.params import Timeframe
from cryptolake_assets.api.table_routes import BAR_TABLES, TABLE_ROUTES
from cryptolake_assets.lake import pages, reject_counts
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.api import (
    DAYS,
    FIRST_DAY,
    FUTURES_EXCHANGE,
    MINUTES,
    Api,
    append,
    bar,
    make_marts,
    put,
    serving,
    starts,
    trade,
)

FIRST_CALL = "/ohlcv/1m?symbol=BTCUSDT&start=2025-01-01%2000:00:00&end=2025-12-31%2023:59:59"


def get(api: Api, query: str, **headers: str) -> Any:
    response = api.get(query, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def times(response: Any) -> list[datetime]:
    return [datetime.fromisoformat(item["window_start"]) for item in response["bars"]]


def test_documented_first_call_returns_all_bars(api: Api, bars: Settings) -> None:
    response = get(api, FIRST_CALL)
    assert list(response) == ["exchange", "symbol", "timeframe", "snapshot_id", "tail_offsets", "bars", "next_cursor"]
    assert (response["symbol"], response["timeframe"], response["next_cursor"]) == ("BTCUSDT", "1m", None)
    assert response["exchange"] == response["bars"][0]["exchange"] == FUTURES_EXCHANGE
    assert int(response["snapshot_id"]) == load_table(bars, FUTURES.bars).metadata.current_snapshot_id
    assert times(response) == starts()
    assert response["bars"][0]["volume"] == "0.00000001"
    assert response["bars"][0]["quote_volume"] == "0.0000000000000001"


def test_end_includes_its_minute(shared_api: Api) -> None:
    query = "/ohlcv/1m?symbol=BTCUSDT&start=2025-01-30T00:01:00Z&end="
    assert times(get(shared_api, query + "2025-01-30T00:02:30Z")) == starts()[1:3]
    assert times(get(shared_api, query + "2025-01-30T00:02:00Z")) == starts()[1:3]
    assert times(get(shared_api, query + "2025-01-30T00:01:59Z")) == starts()[1:2]


def test_end_before_start_returns_no_bars(shared_api: Api) -> None:
    assert get(shared_api, "/ohlcv/1m?symbol=BTCUSDT&start=2025-02-01&end=2025-01-01")["bars"] == []


@pytest.mark.parametrize("limit", range(1, DAYS * MINUTES + 2))
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_of_any_size_return_every_bar_once(shared_api: Api, limit: int, order: str) -> None:
    query = f"/ohlcv/1m?symbol=ETHUSDT&limit={limit}&order={order}"
    found, cursor = [], ""
    while True:
        response = get(shared_api, query + (f"&cursor={cursor}" if cursor else ""))
        assert len(response["bars"]) <= limit
        found += times(response)
        cursor = response["next_cursor"]
        if not cursor:
            break
    assert found == (starts() if order == "asc" else starts()[::-1])


def test_pages_use_the_snapshot_of_the_first_page(api: Api, bars: Settings) -> None:
    first = get(api, "/ohlcv/1m?symbol=BTCUSDT&limit=2")
    put(bars, [bar("BTCUSDT", starts()[2], close=Decimal("77"))])
    api.refresh()
    second = get(api, f"/ohlcv/1m?symbol=BTCUSDT&limit=2&cursor={first['next_cursor']}")
    assert second["snapshot_id"] == first["snapshot_id"]
    assert second["bars"][0]["close"] != "77.00000000"
    assert get(api, "/ohlcv/1m?symbol=BTCUSDT")["bars"][2]["close"] == "77.00000000"


def test_short_page_reads_few_files(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = pages.read_files

    def counted(table: Any, scan: Any, tasks: Any) -> Any:
        read.append(len(tasks))
        return original(table, scan, tasks)

    monkeypatch.setattr(pages, "read_files", counted)
    get(api, "/ohlcv/1m?symbol=BTCUSDT&limit=3")
    assert sum(read) == pages.FIRST_FILES < DAYS
    read.clear()
    get(api, f"/ohlcv/1m?symbol=BTCUSDT&start={FIRST_DAY.date()}&end={FIRST_DAY.date()}T23:59:00Z")
    assert sum(read) == 1


def test_duplicate_trade_is_returned_once(api: Api, bars: Settings) -> None:
    for numbers in ((1, 2, 3), (2, 3, 4)):
        append(bars, FUTURES.trades, [trade("BTCUSDT", number, starts()[number // 3]) for number in numbers])
    api.refresh()
    found, cursor = [], ""
    while True:
        response = get(api, f"/trades?symbol=BTCUSDT&limit=2{cursor}")
        found += [item["trade_id"] for item in response["trades"]]
        if response["next_cursor"] is None:
            break
        cursor = f"&cursor={response['next_cursor']}"
    assert found == [1, 2, 3, 4]
    assert response["trades"][0]["price"] == "0.00000001"


def test_same_copy_of_a_trade_is_returned_regardless_of_files(api: Api, bars: Settings) -> None:
    """The copies differ; the response is the same for every page size and order."""
    copies = [trade("BTCUSDT", 7, starts()[0]) | {"qty": Decimal(qty)} for qty in (5, 3, 9)]
    for copy in copies:
        append(bars, FUTURES.trades, [copy, trade("BTCUSDT", 8, starts()[1])])
    api.refresh()
    query = "/trades?symbol=BTCUSDT"
    pages = [f"{query}&order={order}&limit={limit}" for order in ("asc", "desc") for limit in (1, 2, 9)]
    found = [item for page in pages for item in get(api, page)["trades"] if item["trade_id"] == 7]
    assert [item["qty"] for item in found] == ["3.00000000"] * len(found)
    assert len(found) == 5


@pytest.mark.parametrize(
    "other",
    [
        "/ohlcv/1m?symbol=ETHUSDT&limit=2",
        "/ohlcv/1m?symbol=BTCUSDT&limit=2&order=desc",
        "/ohlcv/5m?symbol=BTCUSDT&limit=2",
        "/stats/daily?symbol=BTCUSDT&limit=2",
    ],
)
def test_cursor_is_rejected_by_other_requests(shared_api: Api, other: str) -> None:
    cursor = get(shared_api, "/ohlcv/1m?symbol=BTCUSDT&limit=2")["next_cursor"]
    rejected = shared_api.get(f"{other}&cursor={cursor}")
    assert (rejected.status_code, rejected.json()["type"].rpartition(":")[2]) in (
        (400, "cursor-of-another-request"),
        (503, "missing-table"),
    )
    assert get(shared_api, f"/ohlcv/1m?symbol=BTCUSDT&limit=9&cursor={cursor}")["bars"]


def test_time_travel_by_snapshot_and_by_time(api: Api, bars: Settings) -> None:
    before = load_table(bars, FUTURES.bars).current_snapshot()
    assert before is not None
    put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
    api.refresh()
    for as_of in (before.snapshot_id, before.timestamp_ms):
        response = get(api, f"/ohlcv/1m?symbol=BTCUSDT&limit=1&as_of={as_of}")
        assert response["snapshot_id"] == str(before.snapshot_id)
        assert response["bars"][0]["close"] != "77.00000000"
    for unknown in ("1970-01-02", "5", str(2**62)):
        rejected = api.get(f"/ohlcv/1m?symbol=BTCUSDT&as_of={unknown}")
        assert (rejected.status_code, rejected.json()["type"]) == (404, "urn:cryptolake:problem:unknown-snapshot")


def test_repeated_request_is_cached_until_the_table_changes(api: Api, bars: Settings) -> None:
    cache = api.reader.cache
    first = api.get(FIRST_CALL)
    assert len(cache) == 1
    again = api.get(FIRST_CALL)
    assert again.content == first.content
    assert again.headers["etag"] == first.headers["etag"]
    unchanged = api.get(FIRST_CALL, headers={"If-None-Match": first.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    lines = [("If-None-Match", '"other"'), ("If-None-Match", first.headers["etag"])]
    assert api.request("GET", FIRST_CALL, headers=lines).status_code == 304
    put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
    api.refresh()
    changed = api.get(FIRST_CALL, headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.json()["bars"][0]["close"] == "77.00000000"


def test_head_is_get_without_body(shared_api: Api) -> None:
    for path in (FIRST_CALL, "/health", "/ohlcv/1m?symbol=NOPE"):
        full, head = shared_api.get(path), shared_api.head(path)
        assert (head.status_code, head.content) == (full.status_code, b"")
        assert head.headers == full.headers
    assert shared_api.head("/sse/ohlcv?symbols=BTCUSDT").status_code == 405  # its response would not end
    assert shared_api.post("/symbols").headers["allow"] == "GET"


def test_etag_depends_on_the_format(shared_api: Api) -> None:
    etags = {shared_api.get(f"{FIRST_CALL}&format={fmt}").headers["etag"] for fmt in ("json", "csv", "arrow")}
    assert len(etags) == 3
    by_accept = shared_api.get(FIRST_CALL, headers={"Accept": "text/csv"})
    assert by_accept.headers["content-type"].startswith("text/csv")
    assert shared_api.get(FIRST_CALL).headers["content-type"] == "application/json"


def test_arrow_has_the_full_range_with_exact_types(shared_api: Api) -> None:
    table = ipc.open_stream(shared_api.get("/ohlcv/1m?symbol=BTCUSDT&format=arrow").content).read_all()
    schema = FUTURES.bars.arrow_schema().append(pa.field("state", pa.string()))
    assert table.schema.equals(schema, check_metadata=False)
    assert table["window_start"].to_pylist() == starts()


def test_cache_memory_is_bounded(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bound, requests = 50_000, 60
    monkeypatch.setattr(type(bars), "api_cache_bytes", property(lambda _: bound))
    with serving(bars) as api:
        cache = api.reader.cache
        lengths = []
        for number in range(requests):
            response = api.get(f"/ohlcv/1m?symbol=BTCUSDT&end={1738540800000 + number}")
            assert response.status_code == 200
            lengths.append(len(response.content))
            assert cache.size_bytes <= bound
        assert sum(lengths) > 2 * bound, "the responses exceed the cache, so the oldest were evicted"
        assert 1 < len(cache) < requests


def test_response_beyond_the_limit_is_413_unless_paged(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(bars), "api_answer_bytes", property(lambda _: 1_000))
    with serving(bars) as api:
        rejected = api.get("/ohlcv/1m?symbol=BTCUSDT&format=parquet")
        assert rejected.status_code == 413
        assert "limit" in rejected.json()["detail"]
        assert api.get("/ohlcv/1m?symbol=BTCUSDT&limit=1").status_code == 200


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("/ohlcv/1m?symbol=NOPE", 404, "unknown-symbol"),
        ("/trades?symbol=NOPE", 404, "unknown-symbol"),
        ("/ohlcv/1m?symbol=BTCUSDT&start=noon", 422, "invalid-parameter"),
        ("/ohlcv/1m?symbol=BTCUSDT&limit=0", 422, "invalid-parameter"),
        ("/ohlcv/1m?symbol=BTC%20USDT", 422, "invalid-parameter"),
        ("/ohlcv/1m", 422, "invalid-parameter"),
        ("/ohlcv/2m?symbol=BTCUSDT", 422, "invalid-parameter"),
        ("/ohlcv/1m?symbol=BTCUSDT&cursor=abc", 404, "unknown-cursor"),
        ("/ohlcv/1h?symbol=BTCUSDT", 503, "missing-table"),
        ("/nowhere", 404, "not-found"),
    ],
)
def test_errors_are_problem_details(shared_api: Api, query: str, status: int, code: str) -> None:
    response = shared_api.get(query)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    problem = response.json()
    assert (problem["type"], problem["status"]) == (f"urn:cryptolake:problem:{code}", status)
    assert {"title", "detail"} <= problem.keys()


def test_unexpected_error_hides_its_cause_from_the_client(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret path /etc/x")

    monkeypatch.setattr("cryptolake_assets.api.page_reader.read_page", fail)
    response = api.get(FIRST_CALL)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


def test_lake_without_tables_is_503(tmp_path: Any) -> None:
    with serving(load_settings(home=tmp_path / "none")) as api:
        assert api.get(FIRST_CALL).json()["status"] == 503
        assert api.get("/health").status_code == 503


def test_symbols_have_their_first_and_last_minute(api: Api, bars: Settings) -> None:
    new = starts()[-1] + timedelta(minutes=1)
    put(bars, [bar("SOLUSDT", new)])
    api.refresh()
    found = {item["symbol"]: item for item in get(api, "/symbols")["symbols"]}
    assert found["BTCUSDT"] == {
        "exchange": FUTURES_EXCHANGE,
        "symbol": "BTCUSDT",
        "first_minute": "2025-01-30T00:00:00Z",
        "last_minute": "2025-02-01T00:03:00Z",
        "bars": DAYS * MINUTES,
    }
    assert found["SOLUSDT"]["bars"] == 1


def test_symbols_and_gaps_support_as_of_and_every_format(api: Api, bars: Settings) -> None:
    covered = {"exchange": "binance_futures", "symbol": "BTCUSDT", "stream": "trade", "source": "x", "kafka_offset": 1}
    for hour in (0, 2):
        spans = {
            "connected_from": FIRST_DAY + timedelta(hours=hour),
            "connected_to": FIRST_DAY + timedelta(hours=hour + 1),
        }
        append(bars, OPS_COVERAGE, [{**covered, **spans, "kafka_partition": 0, "updated_at": FIRST_DAY}])
    past = {
        "/symbols": load_table(bars, FUTURES.bars).metadata.current_snapshot_id,
        "/gaps": load_table(bars, OPS_COVERAGE).metadata.current_snapshot_id,
    }
    put(bars, [bar("SOLUSDT", starts()[0])])
    load_table(bars, OPS_COVERAGE).delete()
    api.refresh()
    for path, rows in (("/symbols", 2), ("/gaps", 1)):
        now, then = get(api, path), get(api, f"{path}?as_of={past[path]}")
        name = path.removeprefix("/")
        assert (len(now[name]), len(then[name])) == ({"/symbols": 3, "/gaps": 0}[path], rows)
        assert then["snapshot_id"] == str(past[path]) != now["snapshot_id"]
        csv = api.get(f"{path}?as_of={past[path]}", headers={"Accept": "text/csv"})
        assert (csv.headers["x-snapshot-id"], csv.text.count("\n")) == (then["snapshot_id"], rows + 1)
        lines = api.get(f"{path}?as_of={past[path]}&format=ndjson").text.splitlines()
        assert [json.loads(line) for line in lines] == then[name]
        arrow = ipc.open_stream(api.get(f"{path}?as_of={past[path]}&format=arrow").content).read_all()
        parquet_bytes = api.get(f"{path}?as_of={past[path]}&format=parquet").content
        assert parquet.read_table(io.BytesIO(parquet_bytes)).to_pylist() == arrow.to_pylist()
        assert arrow.num_rows == rows
        assert api.get(f"{path}?as_of=1970-01-02").status_code == 404
        assert api.get(f"{path}?format=xml").status_code == 422
    assert then["gaps"][0]["gap_from"] == "2025-01-30T01:00:00.000000Z"


def test_catalog_is_json_and_supports_as_of_by_time_only(api: Api, bars: Settings) -> None:
    (first,) = load_table(bars, FUTURES.bars).metadata.snapshots
    put(bars, [bar("BTCUSDT", starts()[-1] + timedelta(minutes=1))])
    api.refresh()
    (then,) = get(api, f"/catalog?as_of={first.timestamp_ms}")["tables"]  # the other tables are empty
    assert (then["snapshot_id"], then["rows"]) == (str(first.snapshot_id), DAYS * MINUTES * 2)
    assert [item["snapshot_id"] for item in then["snapshots"]] == [str(first.snapshot_id)]
    assert get(api, "/catalog?format=json") == get(api, "/catalog", Accept="text/html,*/*;q=0.8")
    for query, accept, status in (
        ("", "text/csv", 406),
        ("?format=csv", "*/*", 422),
        (f"?as_of={first.snapshot_id}", "*/*", 422),  # a snapshot id belongs to one table
        ("?as_of=1970-01-02", "*/*", 404),
    ):
        assert api.get(f"/catalog{query}", headers={"Accept": accept}).status_code == status, query


def test_rejects_are_counted_by_reason(api: Api, bars: Settings) -> None:
    moment = starts()[0]
    frame = {"raw": b"x", "stream": "trade", "ingest_ts": moment, "kafka_topic": "t", "kafka_timestamp": moment}
    reasons = ("not_json: line 1", "not_json: line 2", "bad_price: NaN")
    append(bars, FUTURES.rejected, [{**frame, "reason": reason} for reason in reasons])
    invalid = {**trade("BTCUSDT", 1, moment), "rule": "price_not_positive", "run_id": "r", "source_snapshot": 1}
    kafka = ("kafka_partition", "kafka_offset", "kafka_timestamp")
    append(bars, FUTURES.quarantine, [{name: value for name, value in invalid.items() if name not in kafka}])
    api.refresh()
    found = get(api, "/quality/rejected")["reasons"]
    assert [(item["reason"], item["rows"]) for item in found] == [("not_json", 2), ("bad_price", 1)]
    (found,) = get(api, "/quality/quarantined")["reasons"]
    assert (found["reason"], found["symbol"], found["rows"]) == ("price_not_positive", "BTCUSDT", 1)
    assert datetime.fromisoformat(found["first_at"]) == moment


def test_rejects_of_a_range_are_counted_without_reading_other_files(
    api: Api, bars: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = (0, 10, 20, 60, 61)
    for day in days:
        moment = FIRST_DAY + timedelta(days=day)
        frame = {"raw": b"x" * 1_000, "stream": "trade", "ingest_ts": moment, "kafka_topic": "t"}
        append(bars, FUTURES.rejected, [{**frame, "kafka_timestamp": moment, "reason": f"not_json: line {day}"}])
    api.refresh()
    read: list[int] = []
    names: set[str] = set()
    original = pages.read_files

    def counted(table: Any, scan: Any, tasks: Any) -> Any:
        read.append(len(tasks))
        found = original(table, scan, tasks)
        names.update(found.column_names)
        return found

    monkeypatch.setattr(pages, "read_files", counted)
    monkeypatch.setattr(reject_counts, "FILES_AT_ONCE", 2)
    for query, files in (
        ("", [2]),  # the last 30 days
        (f"?start={FIRST_DAY.date()}", [2, 2, 1]),
        (f"?start={(FIRST_DAY + timedelta(days=9)).date()}&end={(FIRST_DAY + timedelta(days=20)).date()}", [2]),
        (f"?start={(FIRST_DAY + timedelta(days=70)).date()}", []),
    ):
        read.clear()
        response = get(api, f"/quality/rejected{query}")
        assert sum(item["rows"] for item in response["reasons"]) == sum(files), query
        assert read == files, query
        assert len(response["reasons"]) == (1 if files else 0)
    assert names == {"reason", "ingest_ts"}
    recent = get(api, "/quality/rejected")
    assert datetime.fromisoformat(recent["start"]) == FIRST_DAY + timedelta(days=61 - 30)
    first = min(load_table(bars, FUTURES.rejected).metadata.snapshots, key=lambda item: item.timestamp_ms)
    csv = api.get(f"/quality/rejected?as_of={first.snapshot_id}&format=csv")
    assert (csv.headers["x-snapshot-id"], csv.text.count("\n")) == (str(first.snapshot_id), 2)


def test_differences_from_official_klines_have_both_values(api: Api, bars: Settings) -> None:
    one = {"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "window_start": starts()[0], "tolerated": False}
    values = {"ours": Decimal("0.00000001"), "official": Decimal("1.5")}
    append(bars, FUTURES.kline_differences, [{**one, **values, "field": name} for name in ("volume", "high")])
    append(bars, FUTURES.kline_differences, [{**one, **values, "field": "low", "window_start": starts()[1]}])
    api.refresh()
    found = get(api, "/quality/klines?symbol=BTCUSDT")["differences"]
    assert [(item["window_start"], item["field"]) for item in found] == [
        ("2025-01-30T00:01:00Z", "low"),
        ("2025-01-30T00:00:00Z", "volume"),
        ("2025-01-30T00:00:00Z", "high"),
    ]
    assert (found[0]["ours"], found[0]["official"]) == ("0.0000000100000000", "1.5000000000000000")
    assert api.get("/quality/klines?symbol=NOPE").status_code == 404


def test_every_table_route_is_served_and_described(api: Api, bars: Settings) -> None:
    make_marts(bars)
    api.refresh()
    document = get(api, "/openapi.json")
    for route in TABLE_ROUTES:
        assert set(route.key) <= set(route.table.column_names)
        response = get(api, route.route.format(timeframe="1m") + "?symbol=BTCUSDT&limit=1")
        tail = ["tail_offsets"] if route.has_states else []
        assert list(response) == [*route.envelope, "snapshot_id", *tail, route.rows_name, "next_cursor"]
        operation = document["paths"][route.route]["get"]
        assert (operation["description"], operation["summary"]) == (route.doc, route.summary)
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{route.page}"}


@pytest.mark.parametrize("timeframe", [each for each in Timeframe if each is not Timeframe.M1])
def test_longer_bars_come_from_the_mart_of_their_timeframe(api: Api, bars: Settings, timeframe: Timeframe) -> None:
    make_marts(bars)
    mart = BAR_TABLES[timeframe][Family.FUTURES]
    assert mart.name == f"ohlcv_{timeframe}"
    append(
        bars,
        mart,
        [{"exchange": FUTURES_EXCHANGE, "symbol": "BTCUSDT", "window_start": FIRST_DAY, "volume": Decimal(7)}],
    )
    api.refresh()
    response = get(api, f"/ohlcv/{timeframe}?symbol=BTCUSDT")
    assert (response["timeframe"], [item["volume"] for item in response["bars"]]) == (timeframe, ["7.00000000"])


def test_warm_up_reads_one_file(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = pages.read_files

    def counted(table: Any, scan: Any, tasks: list[Any]) -> Any:
        read.append(len(tasks))
        return real(table, scan, tasks)

    monkeypatch.setattr(pages, "read_files", counted)
    monkeypatch.setattr(pages, "FIRST_FILES", 1)
    with serving(bars):
        assert read == [1]


def test_routes_of_dagster_are_503_while_it_is_down(bars: Settings) -> None:
    with serving(bars, dagster_port=9) as api:  # a platform may run on the default port
        for path in ("/operations/assets", "/quality/checks"):
            assert (api.get(path).status_code, api.get(path).json()["title"]) == (503, "Unavailable")
        assert {item["state"] for item in get(api, "/operations/parts")["parts"]} == {"stopped"}


def test_catalog_lists_tables_with_snapshots(api: Api, bars: Settings) -> None:
    changed = put(bars, [bar("BTCUSDT", starts()[0], close=Decimal("77"))])
    api.refresh()
    tables = {item["table"]: item for item in get(api, "/catalog")["tables"]}
    assert len(tables) == sum(len(get_catalog(bars).list_tables(name)) for name in get_catalog(bars).list_namespaces())
    silver = tables["cryptolake.silver.futures_ohlcv_1m"]
    assert silver["rows"] == DAYS * MINUTES * 2
    assert [item["name"] for item in silver["columns"]] == list(FUTURES.bars.column_names)
    assert len(silver["snapshots"]) == 2
    assert str(changed) in {item["snapshot_id"] for item in silver["snapshots"]}


def test_metrics_count_requests_and_describe_the_lake(api: Api) -> None:
    api.get(FIRST_CALL)
    api.get(FIRST_CALL)
    lines = api.get("/metrics").text.splitlines()
    assert 'cryptolake_api_requests_total{route="/ohlcv/{timeframe}",status="200"} 2.0' in lines
    assert 'cryptolake_table_rows{table="cryptolake.silver.futures_ohlcv_1m"} 24.0' in lines


def test_health_and_metrics_do_not_wait_for_readers(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    released, reading = threading.Event(), threading.Event()

    def waits(*given: Any) -> Any:
        reading.set()
        assert released.wait(60)
        return pages.read_page(*given)

    with serving(bars, api_readers=1) as api, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr("cryptolake_assets.api.page_reader.read_page", waits)
        slow = pool.submit(api.get, FIRST_CALL)
        try:
            assert reading.wait(60)
            for path in ("/health", "/metrics", "/operations/parts"):
                assert api.get(path, timeout=15).status_code == 200, path
        finally:
            released.set()
        assert slow.result().status_code == 200
