"""Answers that are JSON of the present: who asks for another format or an earlier state is refused, not ignored."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import BeforeValidator

from cryptolake_assets.api import formats
from cryptolake_assets.api.params import Format, JsonOnly


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
