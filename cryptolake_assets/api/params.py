"""Request parameters and their parsers: times, symbols, pages, cursors and formats. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from cryptolake_assets.api.problems import cursor_of_another_request, unknown_cursor
from cryptolake_assets.model.bar_state import SERVED, BarState
from cryptolake_assets.model.markets import EXCHANGES
from cryptolake_assets.model.symbols import MAX_SYMBOL_BYTES, SYMBOL_MEANING, in_capitals, is_symbol

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
LATEST_MS = int(LATEST.timestamp() * 1000)
LIMIT = 1_000
MAX_LIMIT = 10_000
LEAP_SECOND = re.compile(r":60(?=[.Zz+\- ]|$)")
DIGITS = re.compile(r"[0-9]{1,19}")


class Format(StrEnum):
    """Encoding of a response."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


JsonOnly = Literal["json"]  # format of responses that are not rows of a table


class Order(StrEnum):
    """Order of the rows by time."""

    ASC = "asc"
    DESC = "desc"


class Timeframe(StrEnum):
    """Length of a bar."""

    M1 = "1m"
    M5 = "5m"
    M15 = "15m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"


def parse_time(value: object) -> object:
    """Parse RFC 3339 or epoch ms to a UTC datetime.

    Accepts a space instead of `T`, and a missing zone (UTC) or time of day (00:00). Clamps times before 1970 or after
    9999; reads a leap second as the end of its minute. Raises `ValueError`, also for an integer out of range for ms,
    so that clients notice that they send µs or ns.
    """
    if isinstance(value, datetime):
        return value
    text = str(value).strip().replace("z", "Z")
    if DIGITS.fullmatch(text):
        if int(text) > LATEST_MS:
            raise ValueError(f"expected a time in ms since 1970, at most {LATEST_MS}; µs and ns are not supported")
        return EARLIEST + timedelta(milliseconds=int(text))
    # An unencoded `+` of the zone arrives as a space.
    text = re.sub(r"(?<=\d) (?=\d\d:?\d\d$)(?<=:\d\d )", "+", text) if text.count(":") > 2 else text
    try:
        moment = datetime.fromisoformat(LEAP_SECOND.sub(":59.999999", text, count=1))
    except ValueError:
        raise ValueError("expected a time, such as 2025-01-31T12:00:00Z, 2025-01-31 12:00:00 or epoch ms") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        return EARLIEST if moment.year < EARLIEST.year else LATEST
    return min(max(moment, EARLIEST), LATEST)


def parse_as_of(value: object) -> object:
    """Parse a snapshot id, epoch ms (both an integer: `resolve_as_of` decides which) or a time."""
    text = str(value).strip()
    return int(text) if DIGITS.fullmatch(text) else parse_time(text)


_TIME_SCHEMA = {
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0, "maximum": LATEST_MS}]
}

Time = Annotated[datetime, BeforeValidator(parse_time), WithJsonSchema(_TIME_SCHEMA)]

AsOf = Annotated[
    int | datetime,
    BeforeValidator(parse_as_of),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]


def parse_symbol(text: str) -> str:
    """Return the symbol as the exchange spells it. Raises `ValueError` if the text is not a symbol."""
    if not is_symbol(text):
        raise ValueError(f"a symbol has {SYMBOL_MEANING}")
    return in_capitals(text)


Symbol = Annotated[
    str,
    AfterValidator(parse_symbol),
    Field(
        min_length=1,
        max_length=MAX_SYMBOL_BYTES,
        description=f"The exchange's symbol: {SYMBOL_MEANING}.",
        examples=["BTCUSDT"],
        json_schema_extra={"format": "symbol"},
    ),
]


def parse_exchange(text: str) -> str:
    """Return the exchange. Raises `ValueError` if the text is not the exchange of a market."""
    if text not in EXCHANGES:
        raise ValueError(f"expected one of {', '.join(EXCHANGES)}")
    return text


Exchange = Annotated[
    str,
    AfterValidator(parse_exchange),
    Field(
        description="Exchange and market. Without it, a request with a symbol gets the rows of the default market if "
        "that has the symbol, otherwise of another that has it; a request without a symbol gets those of all.",
        examples=["binance_spot"],
        json_schema_extra={"enum": [*EXCHANGES]},
    ),
]


class StateParams(BaseModel):
    """Parameters of every route that serves rows of a table: the state to read and the format."""

    model_config = ConfigDict(frozen=True)

    as_of: AsOf | None = Field(
        None, description="State of the table to read: a snapshot id, or a time.", examples=["2025-01-31T12:00:00Z"]
    )
    format: Format | None = Field(
        None, description="Format of the response; overrides the `Accept` header.", examples=["csv"]
    )


class RangeParams(StateParams):
    """`StateParams` with a range of time."""

    start: Time | None = Field(
        None, description="Start of the range, inclusive; RFC 3339 or epoch ms.", examples=["2024-07-18T23:57:00Z"]
    )
    end: Time | None = Field(
        None,
        description="End of the range, inclusive; RFC 3339 or epoch ms.",
        examples=["2024-07-18T23:59:59Z"],
    )


class PageParams(RangeParams):
    """`RangeParams` with the parameters of pages."""

    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_LIMIT,
        description=f"Maximum rows per page. Default: {LIMIT} for JSON and NDJSON, the full range for other formats.",
        examples=[100],
    )
    cursor: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]{1,512}$",
        description="`next_cursor` of the previous page; keep the other parameters.",
    )
    order: Order | None = Field(None, description="Oldest (`asc`) or newest (`desc`) rows first.", examples=["desc"])


def parse_states(values: object) -> object:
    """Split states separated by commas; no state means the default."""
    texts = values if isinstance(values, list | tuple) else [values]
    return tuple(part for text in texts for part in str(text).split(",")) or SERVED


class BarParams(PageParams):
    """`PageParams` with the states of bars."""

    state: Annotated[tuple[BarState, ...], BeforeValidator(parse_states)] = Field(
        SERVED,
        description=f"States of the bars, separated by commas, of {', '.join(BarState)}.",
        examples=["final"],
    )


def encode_cursor(page_set: str, snapshot_id: int, position: tuple[Any, ...]) -> str:
    """Return an opaque cursor for the end of a page; `page_set` identifies the request: route, filters and order."""
    values = [_to_json(value) for value in position]
    text = json.dumps([_digest(page_set), snapshot_id, *values])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, page_set: str, types: tuple[str, ...]) -> tuple[int, tuple[Any, ...]]:
    """Return the snapshot id and the key values of a cursor, parsed as these Iceberg types.

    Raises a problem for an invalid cursor or a cursor of another request.
    """
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        digest, snapshot_id, *position = values
        if not isinstance(digest, str) or not isinstance(snapshot_id, int):
            raise ValueError("not a cursor")
        if digest != _digest(page_set):
            raise cursor_of_another_request()
        if len(position) != len(types):
            raise ValueError("wrong number of key values")
        return snapshot_id, tuple(_from_json(value, kind) for value, kind in zip(position, types, strict=True))
    except (ValueError, TypeError, OverflowError):
        raise unknown_cursor() from None


def _digest(page_set: str) -> str:
    return hashlib.blake2b(page_set.encode(), digest_size=6).hexdigest()


def _to_json(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return f"{value:f}" if isinstance(value, Decimal) else value


def _from_json(value: Any, kind: str) -> Any:
    """Parse a value of an Iceberg type. Raises `ValueError` or `TypeError` for a value of another type."""
    if kind == "timestamptz":
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("time without a zone")
        return min(max(moment.astimezone(UTC), EARLIEST), LATEST)
    if kind == "date":
        return date.fromisoformat(value)
    if kind.startswith("decimal"):
        return _decimal(value)
    expected: type = {"long": int, "int": int, "string": str}[kind]
    if type(value) is not expected or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        raise ValueError("unexpected type")
    return value


def _decimal(text: str) -> Decimal:
    if not re.fullmatch(r"-?[0-9]{1,30}(\.[0-9]{1,16})?", text):
        raise ValueError("not a decimal")
    return Decimal(text)
