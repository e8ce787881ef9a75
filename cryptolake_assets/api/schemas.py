"""Response schemas for the OpenAPI document, derived from the tables' columns. They do not validate responses."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field, create_model

from cryptolake_assets.api.formats import MEDIA_TYPES, SNAPSHOT_IDS
from cryptolake_assets.api.params import Format
from cryptolake_assets.api.problems import MEDIA_TYPE
from cryptolake_assets.model.columns import Column

_KINDS: dict[str, Any] = {
    "string": str,
    "long": int,
    "int": int,
    "double": float,
    "boolean": bool,
    "date": date,
    "timestamptz": datetime,
}
NextCursor = Annotated[str | None, Field(description="`cursor` of the next page; null at the end.")]
SnapshotId = Annotated[
    str | None, Field(description="Id of the snapshot that was read; null while the table is empty.")
]


class ParameterError(BaseModel):
    """An invalid or missing parameter."""

    parameter: str
    message: str


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457); only `invalid-parameter` has `errors`."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ParameterError] = []


def row_model(
    name: str, columns: tuple[Column, ...], without: Collection[str] = (), optional: Collection[str] = ()
) -> type[BaseModel]:
    """Return the model of a row as JSON: decimals are strings, times RFC 3339."""
    fields: dict[str, Any] = {
        column.name: (
            _kind(column) | None,
            Field(None if column.name in optional else ..., description=column.doc),
        )
        for column in columns
        if column.name not in without
    }
    return create_model(name, **fields)


def _kind(column: Column) -> Any:
    if column.type.startswith("decimal"):
        return Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
    return str if column.name in SNAPSHOT_IDS else _KINDS[column.type]


def page_model(name: str, rows_name: str, row: Any, **envelope: Any) -> type[BaseModel]:
    """Return the model of a page: `envelope`, the snapshot, the rows and the next page's cursor."""
    fields: dict[str, Any] = {
        **{key: (kind, ...) for key, kind in envelope.items()},
        "snapshot_id": (SnapshotId, ...),
        rows_name: (list[row], ...),
        "next_cursor": (NextCursor, ...),
    }
    return create_model(name, **fields)


def rows_model(name: str, rows_name: str, row: Any, **envelope: Any) -> type[BaseModel]:
    """Return the model of an unpaged response: the snapshot, `envelope` and the rows."""
    fields: dict[str, Any] = {key: (kind, ...) for key, kind in envelope.items()}
    fields = {"snapshot_id": (SnapshotId, ...), **fields, rows_name: (list[row], ...)}
    return create_model(name, **fields)


Responses = dict[int | str, dict[str, Any]]  # by status, for FastAPI's `responses`

# Meaning of each status, the same for all routes.
ERROR_RESPONSES = {
    400: "The cursor belongs to another route, exchange, symbol, order or snapshot",
    401: "A key is required",
    403: "The key lacks a scope",
    404: "Unknown symbol, snapshot or cursor; the exchange does not have the symbol",
    406: "None of the accepted formats is available",
    413: "The response exceeds the memory limit; request a shorter range, or pages",
    422: "A parameter is missing or invalid; `errors` names it",
    429: "Too many requests; retry after the seconds in `Retry-After`",
    503: "The table does not exist yet, its files are missing, a part is down, or all live connections are in use",
}
COMMON_ERRORS = (401, 403, 429)


def error_responses(*statuses: int) -> Responses:
    """Return a route's errors for the OpenAPI document: `statuses` and those of every route."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    content = {MEDIA_TYPE: {"schema": schema}}
    return {
        status: {"description": ERROR_RESPONSES[status], "content": content} for status in (*COMMON_ERRORS, *statuses)
    }


def problem_components() -> dict[str, Any]:
    """Return the schemas that `error_responses` refers to, by name."""
    schema = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "ProblemDetails": schema}


EXAMPLES = Path(__file__).with_name("examples.json")  # written by `scripts/api_examples.py`


def examples() -> dict[str, Any]:
    """Return the example responses by path, recorded from the demo: shortened lists, non-JSON as text."""
    found: dict[str, Any] = orjson.loads(EXAMPLES.read_bytes())
    return found


def example_media_type(content: dict[str, Any]) -> str:
    """Return the media type of a route's example: JSON if the route offers it, else the first one."""
    json = MEDIA_TYPES[Format.JSON]
    return json if json in content else next(iter(content))


def row_responses(*, has_symbol: bool = False, paged: bool = False) -> Responses:
    """Return the responses of a route with rows. Without a symbol and pages, 404 means an unknown snapshot."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {kind.partition(";")[0]: binary for name, kind in MEDIA_TYPES.items() if name is not Format.JSON}
    errors = error_responses(*([400] if paged else []), 404, 406, *([413] if paged else []), 422, 503)
    unknown = [*(["symbol"] if has_symbol else []), "snapshot", *(["cursor"] if paged else [])]
    errors[404] = {**errors[404], "description": f"Unknown {' or '.join(unknown)}"}
    description = "A page; as CSV, Parquet or Arrow the full range" if paged else "All rows"
    return {
        200: {"content": content, "description": description},
        304: {"description": "Not modified: the client has the current response (`If-None-Match`)"},
        **errors,
    }
