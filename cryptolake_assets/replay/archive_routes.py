"""Archive routes of the replay exchange: recorded zips of the public archive, under the archive's own paths.

A file is found in the market's capture directory by its name or its full path, or in the directory of several markets
by its full path. It is served with Range, ETag and Last-Modified, regardless of the replayed clock. If no `.CHECKSUM`
was recorded, it is computed from the file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from cryptolake_assets.binance.archive_files import sha256_of
from cryptolake_assets.model.markets import VENUES, Market, venue_of
from cryptolake_assets.model.symbols import is_symbol

_NAME = re.compile(r"(?P<symbol>.+)-(?P<kind>[A-Za-z0-9]+)-[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?\.zip", re.ASCII)
_CHECKSUM = ".CHECKSUM"


class ArchiveRoutes:
    """Route handlers of `/data/…`."""

    def __init__(self, directory: Path, markets: Mapping[Market, Path]) -> None:
        """Serve all markets of a directory with market directories, or those of the family of the only market."""
        self._directory = directory
        (family, *_) = (VENUES[market].family for market in markets)
        is_of_several = directory not in markets.values()
        self._markets = {
            venue.archive_path: (venue, directory / venue.market if is_of_several else directory)
            for venue in VENUES.values()
            if is_of_several or venue.family is family
        }

    def routes(self) -> list[web.RouteDef]:
        paths = "|".join(path.strip("/") for path in self._markets)
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
        venue, directory = self._markets[f"/{matched['market']}"]
        kind = matched.get("interval", matched["kind"])
        if (
            parts is None
            or not is_symbol(parts["symbol"])
            or (parts["symbol"], parts["kind"]) != (matched["symbol"], kind)
            or venue_of(matched["symbol"], venue.family) is not venue
        ):
            raise web.HTTPNotFound(text=f"replay: {request.path} is not a path of the archive.")
        path = request.path.lstrip("/")
        candidates = (directory / path, self._directory / path, directory / matched["name"])
        return next((one for one in candidates if one.is_file() or one.with_name(name).is_file()), candidates[-1])
