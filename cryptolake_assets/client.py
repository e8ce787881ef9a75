"""Client of the HTTP API. Example:

from cryptolake_assets.client import ohlcv

bars = ohlcv("BTCUSDT", "1h", start="2025-01-01", end="2025-01-31")   # a pandas DataFrame
spot = ohlcv("BTCUSDT", "1h", exchange="binance_spot")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from cryptolake_assets.errors import ApiError, ApiRejectedError, ApiUnreachableError

if TYPE_CHECKING:
    import httpx
    import pandas as pd
    import polars as pl
    import pyarrow as pa

# RFC 3339 or `2025-01-31 12:00:00` (UTC), epoch ms, a date, or a datetime (UTC if it has no zone).
Moment = str | int | date | datetime

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE_ROWS = 10_000
OK, NOT_MODIFIED, TOO_LARGE, UNAVAILABLE = 200, 304, 413, 503


@overload
def ohlcv(symbol: str, timeframe: str = ..., *, frame: Literal["pandas"] = ..., **options: Any) -> pd.DataFrame: ...
@overload
def ohlcv(symbol: str, timeframe: str = ..., *, frame: Literal["polars"], **options: Any) -> pl.DataFrame: ...
@overload
def ohlcv(symbol: str, timeframe: str = ..., *, frame: Literal["arrow"], **options: Any) -> pa.Table: ...
def ohlcv(symbol: str, timeframe: str = "1m", *, frame: str = "pandas", **options: Any) -> Any:
    """Return the bars of a symbol whose open time is in [start, end], oldest first.

    `timeframe` is `1m`, `5m`, `15m`, `1h`, `4h` or `1d`. `frame` is `pandas`, `polars` (if installed) or `arrow`;
    prices and volumes are decimals in all of them. Options: `exchange`, `start`, `end`, `as_of` (snapshot id or time),
    `state` (such as `final`: only bars that are proven complete), `url` (the API's), `key`, `timeout_s`. The range may
    have any length; it is fetched in pages if it is too large for one response. Raises `ApiError` with its reason.

    `exchange` is `binance_futures`, `binance_futures_coin` or `binance_spot`. Without it, the bars are of the API's
    default market if that has the symbol, otherwise of another one that has it; their column `exchange` tells which.
    """
    table = _fetch(f"/ohlcv/{timeframe}", {"symbol": symbol}, **options)
    if frame == "arrow":
        return table
    if frame == "polars":
        import polars as pl

        return pl.from_arrow(table)
    return table.to_pandas()


class ApiClient:
    """A connection to the API. Thread-safe."""

    def __init__(self, url: str = DEFAULT_URL, key: str = "", timeout_s: float = 60.0) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, query: Mapping[str, str], *, etag: str | None = None) -> httpx.Response:
        """Return the response: a 2xx, or a 304 if `etag` is still current.

        Raises `ApiUnreachableError` if the API does not respond, `ApiRejectedError` with its reason if it rejects.
        """
        response = self._request(path, query, {"If-None-Match": etag} if etag else {})
        if response.is_success or response.status_code == NOT_MODIFIED:
            return response
        raise _rejection(response)

    def health(self) -> dict[str, Any]:
        """Return the JSON of `/health`, also for status 503. Raises `ApiUnreachableError`, `ApiRejectedError`."""
        response = self._request("/health", {}, {})
        if response.status_code not in (OK, UNAVAILABLE):
            raise _rejection(response)
        found: dict[str, Any] = response.json()
        return found

    def _request(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> httpx.Response:
        import httpx

        try:
            return self._http.get(path, params=dict(query), headers=dict(headers))
        except httpx.HTTPError as error:
            raise ApiUnreachableError(
                f"api: {self.url} does not respond ({type(error).__name__}). Start the API with `cryptolake up`, or "
                "pass its address as `url`."
            ) from None

    def pages(self, path: str, query: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Yield the full range in the format of `query`: one response, or pages if one would be too large."""
        try:
            yield self.get(path, query)
            return
        except ApiRejectedError as error:
            if error.status != TOO_LARGE:
                raise
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, {**query, "limit": str(PAGE_ROWS), **cursor})
            yield page
            if "x-next-cursor" not in page.headers:
                return
            cursor = {"cursor": page.headers["x-next-cursor"]}


def _fetch(
    path: str,
    query: dict[str, str],
    *,
    exchange: str | None = None,
    start: Moment | None = None,
    end: Moment | None = None,
    as_of: Moment | None = None,
    state: str | None = None,
    url: str = DEFAULT_URL,
    key: str = "",
    timeout_s: float = 60.0,
) -> pa.Table:
    import pyarrow as pa

    times = {"start": start, "end": end, "as_of": as_of}
    query |= {name: _text(value) for name, value in times.items() if value is not None} | {"format": "arrow"}
    query |= {} if exchange is None else {"exchange": exchange}
    query |= {} if state is None else {"state": state}
    with ApiClient(url, key, timeout_s) as api:
        return pa.concat_tables([_table(page) for page in api.pages(path, query)])


def _rejection(response: httpx.Response) -> ApiRejectedError:
    """Return the error of a rejected request: its problem details (RFC 9457), or its status without them."""
    try:
        problem = response.json()
        errors = [f"{item['parameter']}: {item['message']}" for item in problem.get("errors", ())]
        message = "; ".join([str(problem["detail"]), *errors])
        code = str(problem["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = f"HTTP {response.status_code}", ""
    return ApiRejectedError(f"api: {message}", response.status_code, code)


def _table(response: httpx.Response) -> pa.Table:
    from pyarrow import ipc

    return ipc.open_stream(response.content).read_all()


def _text(value: Moment) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value.isoformat() if isinstance(value, date) else str(value)


__all__ = ["ApiClient", "ApiError", "Moment", "ohlcv"]
