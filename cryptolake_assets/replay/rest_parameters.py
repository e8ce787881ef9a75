"""Request parameters of the replay exchange, and REST errors with the exchange's own codes and texts."""

from __future__ import annotations

from aiohttp import web

MAX_MS = (1 << 53) - 1


class RestError(Exception):
    """A rejected request, with the exchange's own code and text."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.body = {"code": code, "msg": text}
        self.status = status


def mandatory(request: web.Request, name: str) -> str:
    value = request.query.get(name, "").strip()
    if not value:
        raise RestError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return value


def integer(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RestError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def window(request: web.Request) -> tuple[int | None, int]:
    """Return (startTime or None, endTime or the maximum time). Raises `RestError` if start is after end."""
    start_ms = integer(request, "startTime", 0) if "startTime" in request.query else None
    end_ms = integer(request, "endTime", MAX_MS)
    if start_ms is not None and start_ms > end_ms:
        raise RestError(-1023, "Start time is greater than end time.")
    return start_ms, end_ms


def check_limit(limit: int, maximum: int) -> None:
    if not 1 <= limit <= maximum:
        raise RestError(-1130, "Data sent for parameter 'limit' is not valid.")
