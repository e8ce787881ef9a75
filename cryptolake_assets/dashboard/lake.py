"""The pages' client of the HTTP API: it caches responses with their ETag, so that an unchanged one costs a 304."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from cachetools import LRUCache

from cryptolake_assets.client import ApiClient
from cryptolake_assets.errors import ApiRejectedError, ApiResponseError
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

MEBIBYTE = 1024 * 1024
CACHE_BYTES = 64 * MEBIBYTE
TIMEOUT_S = 20.0
MAX_ROWS = 10_000  # maximum rows of an API page, and so of a chart
MISSING_TABLE = "missing-table"


class Lake:
    """Client of the API, one for all sessions. Every method raises `ApiError`."""

    def __init__(self, settings: Settings) -> None:
        self._client = ApiClient(settings.dashboard_reads, settings.dashboard_api_key.get_secret_value(), TIMEOUT_S)
        self._cached: LRUCache[str, tuple[str, bytes]] = LRUCache(CACHE_BYTES, getsizeof=lambda item: len(item[1]))
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self._client.url

    def read(self, path: str, **query: Any) -> dict[str, Any]:
        """Return the JSON response of a path. Omit parameters that are None; write times as RFC 3339."""
        parameters = _parameters(query)
        identity = f"{path}?{sorted(parameters.items())}"
        with self._lock:
            etag, body = self._cached.get(identity, (None, b""))
        response = self._client.get(path, parameters, etag=etag)
        if response.is_success:
            body = response.content
            self._cache(identity, response.headers.get("etag"), body)
        try:
            found: dict[str, Any] = orjson.loads(body)
        except ValueError:
            raise ApiResponseError(
                f"dashboard: the response of {self._client.url}{path} is not from CryptoLake's API. Set "
                "`CRYPTOLAKE_DASHBOARD_API_URL` to the API's address, or remove the proxy in front of it."
            ) from None
        return found

    def page(self, path: str, **query: Any) -> dict[str, Any] | None:
        """Like `read`; return None while the table does not exist."""
        return _unless_missing(lambda: self.read(path, **query))

    def symbols(self) -> list[dict[str, Any]]:
        """Return the symbols that have bars, with `first_minute` and `last_minute`."""
        found: list[dict[str, Any]] = (self.page("/symbols") or {"symbols": []})["symbols"]
        return found

    def table(self, path: str, **query: Any) -> pa.Table | None:
        """Return a full range of any length as an Arrow table; None while the table does not exist."""
        return _unless_missing(lambda: self._table(path, _parameters(query)))

    def health(self) -> dict[str, Any]:
        """Return `status` and `dependencies`, also while no data is available (503)."""
        return self._client.health()

    def file(self, path: str, fmt: str, **query: Any) -> bytes:
        """Return a full range of any length as a CSV or Parquet file."""
        parameters = _parameters(query)
        if fmt == "parquet":
            return _parquet(self._table(path, parameters))
        parts = [page.content for page in self._client.pages(path, {**parameters, "format": "csv"})]
        return parts[0] + b"".join(part.partition(b"\n")[2] for part in parts[1:])

    def _table(self, path: str, parameters: Mapping[str, str]) -> pa.Table:
        import pyarrow as pa
        from pyarrow import ipc

        pages = self._client.pages(path, {**parameters, "format": "arrow"})
        return pa.concat_tables([ipc.open_stream(page.content).read_all() for page in pages])

    def _cache(self, identity: str, etag: str | None, body: bytes) -> None:
        if etag is None or len(body) > CACHE_BYTES // 4:
            return
        with self._lock:
            self._cached[identity] = (etag, body)


def _unless_missing(read: Callable[[], T]) -> T | None:
    """Return the result of `read`; None while its table does not exist."""
    try:
        return read()
    except ApiRejectedError as error:
        if error.code == MISSING_TABLE:
            return None
        raise


def moment(text: str) -> datetime:
    """Parse a time of the API."""
    return datetime.fromisoformat(text)


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _parameters(query: Mapping[str, Any]) -> dict[str, str]:
    """Return the query with values as text, without those that are None."""
    return {name: _text(value) for name, value in query.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return str(value)
