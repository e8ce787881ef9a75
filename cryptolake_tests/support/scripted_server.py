"""An HTTP server with scripted responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from aiohttp import web


class ScriptedServer:
    """Sends the scripted responses in order, then repeats the last one."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], str]] = []
        self.requests = 0
        self.url = ""

    async def handle(self, _request: web.Request) -> web.Response:
        status, headers, text = self.script[min(self.requests, len(self.script) - 1)]
        self.requests += 1
        return web.Response(status=status, headers=headers, text=text)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()
