"""A client of the HTTP API in three lines:

from cryptolake_assets.client import ohlcv

bars = ohlcv("BTCUSDT", "1h", start="2025-01-01", end="2025-01-31")   # a pandas DataFrame
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal, overload

from cryptolake_assets.errors import ApiError

if TYPE_CHECKING:
    import httpx
    import pandas as pd
    import polars as pl
    import pyarrow as pa

Moment = str | int | date | datetime
"""RFC 3339 or `2025-01-31 12:00:00` (UTC), epoch ms, a date, or a time (without a zone: UTC)."""

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE_ROWS = 10_000
TOO_LARGE = 413


@overload
def ohlcv(symbol: str, timeframe: str = ..., *, frame: Literal["pandas"] = ..., **options: Any) -> pd.DataFrame: ...
@overload
def ohlcv(symbol: str, timeframe: str = ..., *, frame: Literal["polars"], **options: Any) -> pl.DataFrame: ...
@overload
def ohlcv(symbol: str, timeframe: str = ..., *, frame: Literal["arrow"], **options: Any) -> pa.Table: ...
def ohlcv(symbol: str, timeframe: str = "1m", *, frame: str = "pandas", **options: Any) -> Any:
    """Bars of a symbol (`1m`, `5m`, `15m`, `1h`, `4h`, `1d`) whose open time is in [start, end], oldest first.

    `frame` is `pandas`, `polars` (where it is installed) or `arrow`; prices and volumes are decimals in all of them.
    Options: `start`, `end`, `as_of` (a snapshot's id or a time), `url` (the API's), `key`, `timeout_s`. A range of any
    length is fetched, in pages where it is too large for one answer. Raises `ApiError` with the API's reason.
    """
    table = _fetch(f"/ohlcv/{timeframe}", {"symbol": symbol}, **options)
    if frame == "arrow":
        return table
    if frame == "polars":
        import polars as pl

        return pl.from_arrow(table)
    return table.to_pandas()


def _fetch(
    path: str,
    query: dict[str, str],
    *,
    start: Moment | None = None,
    end: Moment | None = None,
    as_of: Moment | None = None,
    url: str = DEFAULT_URL,
    key: str = "",
    timeout_s: float = 60.0,
) -> pa.Table:
    import httpx
    import pyarrow as pa

    times = {"start": start, "end": end, "as_of": as_of}
    query |= {name: _text(value) for name, value in times.items() if value is not None} | {"format": "arrow"}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=timeout_s, trust_env=False) as http:
        answer = _get(http, path, query)
        if answer.status_code != TOO_LARGE:
            return _table(_sound(answer))
        parts: list[pa.Table] = []
        cursor: dict[str, str] = {}
        while True:
            page = _sound(_get(http, path, {**query, "limit": str(PAGE_ROWS), **cursor}))
            parts.append(_table(page))
            if "x-next-cursor" not in page.headers:
                return pa.concat_tables(parts)
            cursor = {"cursor": page.headers["x-next-cursor"]}


def _get(http: httpx.Client, path: str, query: dict[str, str]) -> httpx.Response:
    import httpx

    try:
        return http.get(path, params=query)
    except httpx.HTTPError as error:
        raise ApiError(
            f"api: it does not answer at {http.base_url} ({type(error).__name__}). Start it with `cryptolake up`, or "
            "give its address as `url`."
        ) from None


def _sound(answer: httpx.Response) -> httpx.Response:
    """The answer; raises `ApiError` with what a refusal says."""
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
        errors = [f"{item['parameter']}: {item['message']}" for item in problem.get("errors", ())]
        said = "; ".join([str(problem["detail"]), *errors])
    except (ValueError, KeyError, TypeError):
        said = f"HTTP {answer.status_code}"
    raise ApiError(f"api: {said}")


def _table(answer: httpx.Response) -> pa.Table:
    from pyarrow import ipc

    return ipc.open_stream(answer.content).read_all()


def _text(value: Moment) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value.isoformat() if isinstance(value, date) else str(value)
