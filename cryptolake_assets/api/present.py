"""JSON responses about the current state: values cached for seconds; other formats and `as_of` are rejected."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BeforeValidator

from cryptolake_assets.api import formats
from cryptolake_assets.api.params import Format, JsonOnly

T = TypeVar("T")


class CachedValue(Generic[T]):
    """The cached value of `read`, read again once it is older than `max_age_s` seconds. Raises what `read` raises."""

    def __init__(self, read: Callable[[], T], max_age_s: float) -> None:
        self._read, self._max_age_s = read, max_age_s
        self._last: tuple[float, T] | None = None

    def get(self) -> T:
        last = self._last
        if last is None or time.monotonic() - last[0] > self._max_age_s:
            value = self._read()
            self._last = last = (time.monotonic(), value)
        return last[1]


def _no_earlier_state(_value: object) -> object:
    raise ValueError("this route reports the present state; earlier states are not stored")


def of_the_present(
    fmt: Annotated[JsonOnly | None, Query(alias="format", description="Only JSON is available.")] = None,
    _as_of: Annotated[
        str | None, BeforeValidator(_no_earlier_state), Query(alias="as_of", include_in_schema=False)
    ] = None,
) -> bool:
    """Reject other formats and any `as_of` with 422 (a route dependency). Return whether `format=json` was given."""
    return fmt is not None


def json_of_the_present(request: Request, named: Annotated[bool, Depends(of_the_present)]) -> None:
    """Like `of_the_present`; also reject with 406 if `Accept` excludes JSON and `format` does not name it."""
    formats.choose(Format.JSON if named else None, request.headers.get("accept"), (Format.JSON,))
