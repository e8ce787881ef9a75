"""Archive routes of the replay exchange: recorded zips of the public archive, under the archive's own paths.

A file is found in the capture directory by its full path or its name. It is served with Range, ETag and Last-Modified,
regardless of the replayed clock. If no `.CHECKSUM` was recorded, it is computed from the file.
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
    """Route handlers of `/data/…` for the markets of one family."""

    def __init__(self, directory: Path, family: Family) -> None:
        self._directory = directory
        self._family = family

    def routes(self) -> list[web.RouteDef]:
        paths = "|".join(venue.archive_path.strip("/") for venue in VENUES.values() if venue.family is self._family)
        below = f"/{{market:{paths}}}/{{span:daily|monthly}}/{{kind}}/{{symbol}}"
        return [web.get(f"{below}/{{name}}", self._get), web.get(f"{below}/{{interval}}/{{name}}", self._get)]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        is_checksum = request.match_info["name"].endswith(_CHECKSUM)
        path = self._find(request)
        if is_checksum and not path.is_file():
            path = path.with_name(path.name.removesuffix(_CHECKSUM))
            if path.is_file():
                return web.Response(text=f"{await asyncio.to_thread(sha256_of, path)}  {path.name}\n")
        if not path.is_file():
            raise web.HTTPNotFound(text=f"replay: {request.path} is not in the capture directory.")
        return web.FileResponse(path, headers={"Content-Type": "text/plain" if is_checksum else "application/zip"})

    def _find(self, request: web.Request) -> Path:
        """Return the file's path, which may not exist.

        Raises `HTTPNotFound` for a path outside the archive's layout.
        """
        matched = request.match_info
        name = matched["name"].removesuffix(_CHECKSUM)
        parts = _NAME.fullmatch(name)
        kind = matched.get("interval", matched["kind"])
        if (
            parts is None
            or not is_symbol(parts["symbol"])
            or (parts["symbol"], parts["kind"]) != (matched["symbol"], kind)
            or f"/{matched['market']}" != venue_of(matched["symbol"], self._family).archive_path
        ):
            raise web.HTTPNotFound(text=f"replay: {request.path} is not a path of the archive.")
        full_path = self._directory / request.path.lstrip("/")
        return full_path if full_path.is_file() else self._directory / matched["name"]
