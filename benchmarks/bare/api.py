"""Bare FastAPI routes for part `api`: bytes from memory, an empty 304, and a table read by each request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

HOME = Path(os.environ.get("BENCH_HOME", "."))

bare = FastAPI(openapi_url=None)
per_request = FastAPI(openapi_url=None)
_cached: list[bytes] = []


@bare.get("/bytes")
async def from_memory(symbol: str) -> Response:  # noqa: ARG001  (parsed, like the API does)
    if not _cached:
        _cached.append((HOME / "response.json").read_bytes())
    return Response(_cached[0], media_type="application/json")


@bare.get("/empty")
async def empty(symbol: str) -> Response:  # noqa: ARG001
    return Response(status_code=304)


@per_request.get("/ohlcv/1m")
def read_each_time(symbol: str, start: str, end: str, limit: int) -> Any:
    """Plan with PyIceberg, read with DuckDB, encode with FastAPI."""
    import duckdb

    from cryptolake_assets.lake.bronze_files import local_path
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.model.family_tables import FUTURES
    from cryptolake_assets.settings import get_settings

    table = load_table(get_settings(), FUTURES.bars)
    where = f"symbol = '{symbol}' and window_start >= '{start}T00:00:00+00:00' and window_start <= '{end[:-1]}+00:00'"
    paths = [local_path(task.file.file_path) for task in table.scan(row_filter=where).plan_files()]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(
            "SELECT COLUMNS(*)::VARCHAR FROM read_parquet(?) WHERE symbol = ? AND window_start BETWEEN ?::TIMESTAMPTZ "
            "AND ?::TIMESTAMPTZ ORDER BY window_start LIMIT ?",
            [paths, symbol, start, end, limit],
        ).fetchall()
        names = [item[0] for item in connection.description]
    return {"bars": [dict(zip(names, row, strict=True)) for row in rows]}
