"""Control routes of a running replay exchange under `/replay/…`: status, faults, emitted ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.model.replay_faults import FaultBoard, ReplayFault, parse_faults
from cryptolake_assets.replay.emitted_ledger import emitted_trades, id_ranges

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlRoutes:
    """Route handlers. `status` returns the exchange's state; `flush` is called after each change of the faults."""

    def __init__(
        self, directory: Path, faults: FaultBoard, status: Callable[[], dict[str, Any]], flush: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._faults = faults
        self._status = status
        self._flush = flush

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/replay/status", self._get_status),
            web.get("/replay/ledger", self._get_ledger),
            web.get("/replay/faults", self._get_faults),
            web.post("/replay/faults", self._post_faults),
            web.delete("/replay/faults", self._delete_faults),
        ]

    @staticmethod
    @web.middleware
    async def same_origin_only(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Reject changes requested by a page of another origin."""
        origin = request.headers.get("Origin")
        is_change = request.path.startswith("/replay/") and request.method not in ("GET", "HEAD")
        if is_change and origin is not None and origin.partition("://")[2] != request.host:
            raise web.HTTPForbidden(
                text=f"replay: a page of {origin[:200]} must not change the replay. Use the replay exchange's origin."
            )
        return await handler(request)

    def switch_on(self, *faults: ReplayFault) -> None:
        """Switch on faults in addition to the active ones."""
        self._faults.switch_on(faults)
        log.info("replay_faults_switched_on", faults=[switch["kind"] for switch in self.describe()])
        self._flush()

    def switch_off(self, kind: str | None = None) -> None:
        """Switch off the faults of a kind; None: all."""
        self._faults.switch_off(kind)
        log.info("replay_faults_switched_off", kind=kind)
        self._flush()

    def describe(self) -> list[dict[str, Any]]:
        """Return the active faults, each with its `happened` count."""
        return self._faults.describe()

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._status())

    async def _get_ledger(self, _request: web.Request) -> web.Response:
        """Return the ids emitted so far per market and stream, as inclusive ranges."""
        status = self._status()
        frames = status["frames_passed"]
        ranges = await asyncio.to_thread(lambda: id_ranges(emitted_trades(self._directory, frames)))
        return web.json_response({"clock_ms": status["clock_ms"], "frames_passed": frames, "emitted": ranges})

    async def _get_faults(self, _request: web.Request) -> web.Response:
        return web.json_response({"faults": self.describe()})

    async def _post_faults(self, request: web.Request) -> web.Response:
        # A cross-site page may post a form or plain text without a CORS preflight; JSON needs one.
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(
                text="replay: faults must be sent as JSON. Set Content-Type: application/json."
            )
        try:
            self.switch_on(*parse_faults(await request.read()))
        except SettingsError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return await self._get_faults(request)

    async def _delete_faults(self, request: web.Request) -> web.Response:
        self.switch_off(request.query.get("kind"))
        return await self._get_faults(request)
