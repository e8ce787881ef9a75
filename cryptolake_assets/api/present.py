"""JSON responses about the present: their values, kept for seconds, and rejection of other formats and `as_of`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BeforeValidator

from cryptolake_assets.api import formats
from cryptolake_assets.api.params import Format, JsonOnly

T = TypeVar("T")


class Kept(Generic[T]):
    """The value of `read`, read again when it is older than `kept_s` seconds. Raises what `read` raises."""

    def __init__(self, read: Callable[[], T], kept_s: float) -> None:
        self._read, self._kept_s = read, kept_s
        self._last: tuple[float, T] | None = None

    def get(self) -> T:
        last = self._last
        if last is None or time.monotonic() - last[0] > self._kept_s:
            value = self._read()
            self._last = last = (time.monotonic(), value)
        return last[1]


def _no_earlier_state(_value: object) -> object:
    raise ValueError("this route tells of the present; no earlier state of it is kept")


def of_the_present(
    wanted: Annotated[JsonOnly | None, Query(alias="format", description="Nothing else can be had.")] = None,
    _as_of: Annotated[
        str | None, BeforeValidator(_no_earlier_state), Query(alias="as_of", include_in_schema=False)
    ] = None,
) -> bool:
    """A route's dependency: 422 for another `format` and for any `as_of`. Whether JSON was named."""
    return wanted is not None


def json_of_the_present(request: Request, named: Annotated[bool, Depends(of_the_present)]) -> None:
    """The same, and 406 where `Accept` leaves no JSON and `format` does not name it."""
    formats.choose(Format.JSON if named else None, request.headers.get("accept"), (Format.JSON,))
