"""Funding and open-interest routes of the replay exchange, from recorded files only, as of the replayed clock.

The files are recorded responses in the capture directory or its market directories, of any symbols, by the patterns in
`captures.recorded_names`.
No data is invented: for a symbol without a file the histories are empty, and its present open interest is an error.
The present open interest is the last recorded value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from cryptolake_assets.binance.rest_paths import FUNDING_PATH, OPEN_INTEREST_HISTORY_PATH, OPEN_INTEREST_PATH
from cryptolake_assets.captures.market_of_capture import recorded_files
from cryptolake_assets.captures.recorded_names import (
    FUNDING_FILES,
    OPEN_INTEREST_HISTORY_FILES,
    OPEN_INTEREST_PRESENT_FILES,
)
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.symbols import in_capitals
from cryptolake_assets.replay.batch_routes import BatchRoutes
from cryptolake_assets.replay.rest_parameters import RestError, check_limit, integer, mandatory, window

Row = Mapping[str, Any]  # one row of a response, as recorded
Rows = Mapping[str, list[tuple[int, Row]]]  # by symbol: (time in ms, row), ascending by time

_FUNDING_PAGE, _STATISTICS_PAGE = 1_000, 500
_STATISTICS_MAX_AGE_MS = 30 * 86_400_000


class FundingRoutes:
    """Route handlers. They return nothing later than `clock_ms`, the replayed time; faults come from `batch`."""

    def __init__(
        self,
        directory: Path,
        clock_ms: Callable[[], int],
        batch: BatchRoutes,
        add_weight: Callable[[int], None],
    ) -> None:
        """Read the recorded responses. Raises `CaptureError` for an invalid one."""
        self._clock_ms = clock_ms
        self._batch = batch
        self._add_weight = add_weight
        self._funding = _read(directory, FUNDING_FILES, "fundingTime")
        self._statistics = _read(directory, OPEN_INTEREST_HISTORY_FILES, "timestamp")
        self._present = _read(directory, OPEN_INTEREST_PRESENT_FILES, "time")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(FUNDING_PATH, self._get_funding),
            web.get(OPEN_INTEREST_PATH, self._get_open_interest),
            web.get(OPEN_INTEREST_HISTORY_PATH, self._get_statistics),
        ]

    async def _get_funding(self, request: web.Request) -> web.Response:
        if (fault := await self._batch.apply_fault("futures_funding", request)) is not None:
            return fault
        limit = integer(request, "limit", 100)
        check_limit(limit, _FUNDING_PAGE)
        start_ms, end_ms = window(request)
        symbol = in_capitals(request.query.get("symbol", ""))
        until_ms = min(end_ms, self._clock_ms())
        recorded = self._funding.get(symbol, [])
        found = [row for time_ms, row in recorded if (start_ms or 0) <= time_ms <= until_ms]
        return _json(found[:limit] if start_ms is not None else found[-limit:])

    async def _get_statistics(self, request: web.Request) -> web.Response:
        if (fault := await self._batch.apply_fault("futures_open_interest", request)) is not None:
            return fault
        symbol = in_capitals(mandatory(request, "symbol"))
        if mandatory(request, "period") != "5m":  # no other period is recorded
            return _json([])
        limit = integer(request, "limit", 30)
        check_limit(limit, _STATISTICS_PAGE)
        start_ms, end_ms = window(request)
        clock_ms = self._clock_ms()
        if start_ms is not None and start_ms < clock_ms - _STATISTICS_MAX_AGE_MS:
            raise RestError(-1130, "parameter 'startTime' is invalid.")
        until_ms = min(end_ms, clock_ms)
        recorded = self._statistics.get(symbol, [])
        found = [row for time_ms, row in recorded if (start_ms or 0) <= time_ms <= until_ms]
        return _json(found[-limit:])

    async def _get_open_interest(self, request: web.Request) -> web.Response:
        self._add_weight(1)
        if (fault := await self._batch.apply_fault("futures_open_interest", request)) is not None:
            return fault
        symbol = in_capitals(mandatory(request, "symbol"))
        clock_ms = self._clock_ms()
        known = [
            *(
                (time_ms, {"openInterest": row["sumOpenInterest"], "symbol": symbol, "time": time_ms})
                for time_ms, row in self._statistics.get(symbol, [])
                if isinstance(row, dict) and "sumOpenInterest" in row
            ),
            *self._present.get(symbol, []),
        ]
        published = [(time_ms, row) for time_ms, row in known if time_ms <= clock_ms]
        if not published:
            raise RestError(-1121, "Invalid symbol.")
        return _json(max(published, key=lambda item: item[0])[1])


def _json(document: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _read(directory: Path, pattern: str, time_name: str) -> Rows:
    """Read the rows of recorded responses; a row without symbol or time gets the previous row's."""
    found: dict[str, dict[tuple[int, bytes], Row]] = {}
    for path in recorded_files(directory, pattern):
        try:
            recorded = msgspec.json.decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise _recording_error(path, error) from error
        rows = recorded if isinstance(recorded, list) else [recorded]
        places = [_place(row, time_name) for row in rows]
        symbol, time_ms = next(filter(None, places), ("", 0))
        if rows and not symbol:
            raise _recording_error(path, ValueError(f"no row has a symbol and a {time_name}"))
        for row, place in zip(rows, places, strict=True):
            symbol, time_ms = place or (symbol, time_ms)
            found.setdefault(symbol, {})[time_ms, msgspec.json.encode(row)] = row
    return {symbol: [(time_ms, row) for (time_ms, _), row in sorted(rows.items())] for symbol, rows in found.items()}


def _place(row: Any, time_name: str) -> tuple[str, int] | None:
    try:
        return str(row["symbol"]), int(row[time_name])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _recording_error(path: Path, error: Exception) -> CaptureError:
    return CaptureError(
        f"capture: {path} is not a recorded response of the exchange ({error!r}). Replace or remove the file."
    )
