"""The replay exchange's archive side: recorded zips of the public archive, by the archive's own paths.

A file is looked for in the capture's directory by its name, or by its whole path. It is served as it lies there, with
Range, ETag and Last-Modified, whatever the replayed clock shows. A `.CHECKSUM` that was not recorded is the file's own.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from aiohttp import web

from cryptolake_assets.binance.archive_files import sha256_of
from cryptolake_assets.model.markets import VENUES, Family, venue_of
from cryptolake_assets.model.symbols import is_symbol

_NAME = re.compile(r"(?P<symbol>.+)-(?P<kind>[A-Za-z0-9]+)-[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?\.zip", re.ASCII)
_CHECKSUM = ".CHECKSUM"


class ArchiveRoutes:
    """Routes and answers of `/data/…`, of the markets of one family."""

    def __init__(self, directory: Path, family: Family) -> None:
        self._directory = directory
        self._family = family

    def routes(self) -> list[web.RouteDef]:
        paths = "|".join(venue.archive_path.strip("/") for venue in VENUES.values() if venue.family is self._family)
        below = f"/{{market:{paths}}}/{{span:daily|monthly}}/{{kind}}/{{symbol}}"
        return [web.get(f"{below}/{{name}}", self._get), web.get(f"{below}/{{interval}}/{{name}}", self._get)]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        of_checksum = request.match_info["name"].endswith(_CHECKSUM)
        path = self._find(request)
        if of_checksum and not path.is_file():
            path = path.with_name(path.name.removesuffix(_CHECKSUM))
            if path.is_file():
                return web.Response(text=f"{await asyncio.to_thread(sha256_of, path)}  {path.name}\n")
        if not path.is_file():
            raise web.HTTPNotFound(text=f"there is no {request.path} in the capture's directory")
        return web.FileResponse(path, headers={"Content-Type": "text/plain" if of_checksum else "application/zip"})

    def _find(self, request: web.Request) -> Path:
        """Where the file is or would be; raises `HTTPNotFound` for a path that the archive cannot have."""
        given = request.match_info
        name = given["name"].removesuffix(_CHECKSUM)
        parts = _NAME.fullmatch(name)
        kind = given.get("interval", given["kind"])
        if (
            parts is None
            or not is_symbol(parts["symbol"])
            or (parts["symbol"], parts["kind"]) != (given["symbol"], kind)
            or f"/{given['market']}" != venue_of(given["symbol"], self._family).archive_path
        ):
            raise web.HTTPNotFound(text=f"{request.path} is no path of the archive")
        whole = self._directory / request.path.lstrip("/")
        return whole if whole.is_file() else self._directory / given["name"]
