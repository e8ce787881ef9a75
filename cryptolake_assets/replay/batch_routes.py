"""Batch-source routes of the replay exchange: recorded responses of the Fear & Greed index and CoinGecko.

Responses are as of the replayed clock.

Files of the capture directory, or its market directories: `fear_greed.json` (the response of `/fng/?limit=0`, or its
array `data`), `coingecko_markets_<page>.json` and `coingecko_global.json` (responses, served byte for byte). No data is
invented: without a file the index and the pages are empty, and `/global` is 404.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web

from cryptolake_assets.captures.market_of_capture import recorded_files
from cryptolake_assets.captures.recorded_names import COINGECKO_GLOBAL_FILE, COINGECKO_PAGE_FILES, FEAR_GREED_FILE
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.replay_faults import FaultBoard, SourceFault, SourceFaultKind
from cryptolake_assets.model.windows import EPOCH

log = structlog.get_logger(__name__)

_COINGECKO = "/api/v3"
_HTML = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"

Clock = Callable[[], int]


class _Index(msgspec.Struct):
    data: list[Any]
    name: str = "Fear and Greed Index"


@dataclass(frozen=True)
class _Recorded:
    """A recorded response, served from `from_ms` (ms since 1970) on."""

    body: bytes
    from_ms: int


class BatchRoutes:
    """Route handlers. They return nothing later than `clock_ms`, the replayed time; `faults` configures failures."""

    def __init__(self, directory: Path, clock_ms: Clock, faults: FaultBoard) -> None:
        """Read the recorded responses. Raises `CaptureError` for an invalid one."""
        self._clock_ms = clock_ms
        self._faults = faults
        self._index = _read_index(recorded_files(directory, FEAR_GREED_FILE))
        self._pages = {_page_number(path): _read_page(path) for path in recorded_files(directory, COINGECKO_PAGE_FILES)}
        self._global = _read_global(recorded_files(directory, COINGECKO_GLOBAL_FILE))
        self.requests: list[str] = []  # path and query of each request (`/fng/?limit=0`), and its key if any

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/fng/", self._get_index),
            web.get(f"{_COINGECKO}/coins/markets", self._get_markets),
            web.get(f"{_COINGECKO}/global", self._get_global),
        ]

    async def _get_index(self, request: web.Request) -> web.Response:
        if (fault := await self.apply_fault("fear_greed", request)) is not None:
            return fault
        limit = _integer(request, "limit", 1)
        seconds = self._clock_ms() // 1000
        days = [day for day in self._index.data if _second_of(day) <= seconds]
        days = days[:limit] if limit else days
        document = {"name": self._index.name, "data": days, "metadata": {"error": None}}
        return _json(msgspec.json.encode(document))

    async def _get_markets(self, request: web.Request) -> web.Response:
        if (fault := await self.apply_fault("coingecko", request)) is not None:
            return fault
        if request.query.get("vs_currency") != "usd":
            return _error(422, "Missing parameter vs_currency")
        page = self._pages.get(_integer(request, "page", 1))
        return _json(page.body if page is not None and page.from_ms <= self._clock_ms() else b"[]")

    async def _get_global(self, request: web.Request) -> web.Response:
        if (fault := await self.apply_fault("coingecko", request)) is not None:
            return fault
        if self._global is None or self._global.from_ms > self._clock_ms():
            return _error(404, "No response was recorded for this time.")
        return _json(self._global.body)

    async def apply_fault(self, source: str, request: web.Request) -> web.Response | None:
        """Record the request; return the response of an active fault, else None. A slow fault only waits."""
        key = request.headers.get("x-cg-demo-api-key")
        self.requests.append(request.path_qs + (f" key={key}" if key else ""))
        fault = self._faults.source_fault(source)
        if fault is None:
            return None
        log.info("replay_fault_applied", source=source, kind=fault.kind.value)
        if fault.kind is SourceFaultKind.SLOW:
            await asyncio.sleep(fault.seconds)
            return None
        return _fault_response(fault)


def _fault_response(fault: SourceFault) -> web.Response:
    if fault.kind is SourceFaultKind.RATE_LIMIT:
        response = _error(429, "You've exceeded the Rate Limit.")
        response.headers["Retry-After"] = str(fault.seconds)
        return response
    if fault.kind is SourceFaultKind.HTML:
        return web.Response(text=_HTML, content_type="text/html")
    if fault.kind is SourceFaultKind.SERVER_ERROR:
        return web.Response(text="<html>502 Bad Gateway</html>", status=502, content_type="text/html")
    return _json(b'{"result": [], "version": 2}')


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _error(status: int, text: str) -> web.Response:
    body = {"status": {"error_code": status, "error_message": text}}
    return web.json_response(body, status=status)


def _integer(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _read_index(paths: Sequence[Path]) -> _Index:
    """Return the recorded index, newest day first; empty without a file."""
    if not paths:
        return _Index([])
    found = _decode(paths[0], _Index | list[Any])
    return found if isinstance(found, _Index) else _Index(found)


def _second_of(day: Any) -> int:
    """Return the start of the day, epoch seconds; 0 for an invalid row, which is always served."""
    text = day.get("timestamp") if isinstance(day, dict) else None
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else 0


def _read_page(path: Path) -> _Recorded:
    moments = [_moment_of(coin) for coin in _decode(path, list[Any])]
    return _Recorded(path.read_bytes(), int(max(moments, default=EPOCH).timestamp() * 1000))


def _moment_of(coin: Any) -> datetime:
    """Return when a coin was last updated; 1970 for an invalid entry."""
    try:
        moment = datetime.fromisoformat(coin["last_updated"])
    except (KeyError, TypeError, ValueError):
        return EPOCH
    return moment if moment.tzinfo is not None else EPOCH


def _read_global(paths: Sequence[Path]) -> _Recorded | None:
    if not paths:
        return None
    path = paths[0]
    data = _decode(path, dict[str, Any]).get("data")
    if not isinstance(data, dict) or not isinstance(data.get("updated_at"), int):
        raise _recording_error(path, "data.updated_at is missing")
    return _Recorded(path.read_bytes(), data["updated_at"] * 1000)


def _page_number(path: Path) -> int:
    text = path.stem.rpartition("_")[2]
    if not (text.isascii() and text.isdigit()):
        raise _recording_error(path, "the file name does not end in a page number")
    return int(text)


def _decode(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise _recording_error(path, str(error)) from error


def _recording_error(path: Path, cause: str) -> CaptureError:
    return CaptureError(
        f"capture: {path} is not a recorded response of its source ({cause}). Replace or remove the file."
    )
