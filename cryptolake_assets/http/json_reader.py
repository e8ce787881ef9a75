"""Strict reader of third-party JSON: exact numbers; errors name the location of an unexpected value. Pure.

The exchange's responses are read with msgspec, which is too lenient and too strict here: it keeps the last of duplicate
keys, and rejects an entire page for one NaN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from cryptolake_assets.errors import ResponseRejectedError

if TYPE_CHECKING:
    from cryptolake_assets.model.table_spec import TableSpec

_SHOWN_BYTES = 80
_DECIMAL_TYPE = re.compile(r"decimal\((\d+), (\d+)\)")
_QUOTED = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?", re.ASCII)
_LAST_SECOND = 253_402_300_799  # 9999-12-31


class Unreadable:
    """A value that is not JSON or has no exact representation; `Fields` and `array_of` reject it with its location."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def parse_json(body: bytes) -> Any:
    """Parse the document; every number is a `Decimal`. Raises `ResponseRejectedError` if it is not JSON.

    NaN, an object with a duplicate key and a number beyond `Decimal` become `Unreadable`, so that only the affected
    item is rejected, not its page.
    """
    try:
        return json.loads(
            body.decode(),
            parse_float=_number,
            parse_int=_number,
            parse_constant=Unreadable,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError) as error:
        raise ResponseRejectedError(f"not JSON ({type(error).__name__}); starts with {body[:_SHOWN_BYTES]!r}") from None


def _number(text: str) -> Decimal | Unreadable:
    try:
        return Decimal(text)
    except ArithmeticError:
        return Unreadable(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Unreadable:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Unreadable("an object with a duplicate key")


def array_of(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise ResponseRejectedError(f"{place} is {_kind(value)}, expected an array")
    return value


class Fields:
    """Typed access to an object's values by name.

    Each method raises `ResponseRejectedError` naming the location. With `optional`, null and a missing key are None.
    """

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise ResponseRejectedError(f"{place} is {_kind(value)}, expected an object")
        self._values: Mapping[str, Any] = value
        self._place = place

    def raw(self, name: str) -> Any:
        if name not in self._values:
            raise ResponseRejectedError(f"{self._place} has no {name}")
        return self._values[name]

    def object(self, name: str) -> Fields:
        return Fields(self.raw(name), self._at(name))

    def array(self, name: str) -> list[Any]:
        return array_of(self.raw(name), self._at(name))

    def text(self, name: str) -> str:
        value = self.raw(name)
        if not isinstance(value, str) or not value.strip() or not _is_unicode(value):
            raise self._unexpected(name, "text")
        return value

    def number(self, name: str, *, optional: bool = False) -> Decimal | None:
        value = self._values.get(name) if optional else self.raw(name)
        if value is None and optional:
            return None
        if not isinstance(value, Decimal):
            raise self._unexpected(name, "a number")
        return value

    def integer(self, name: str, *, optional: bool = False) -> int | None:
        value = self.number(name, optional=optional)
        if value is None:
            return None
        if not fits(value, 18, 0):
            raise self._unexpected(name, "an integer of at most 18 digits")
        return int(value)

    def digits(self, name: str) -> int:
        """Return an integer >= 0 written as text."""
        value = self.raw(name)
        if not (isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value)):
            raise self._unexpected(name, "digits in quotes")
        return int(value)

    def quoted(self, name: str, *, optional: bool = False) -> Decimal | None:
        """Return a number written as text, such as "-0.00018534". With `optional`, the empty text is None too."""
        value = self._values.get(name) if optional else self.raw(name)
        if optional and value in (None, ""):
            return None
        if not (isinstance(value, str) and _QUOTED.fullmatch(value)):
            raise self._unexpected(name, "a number in quotes")
        return Decimal(value)

    def milliseconds(self, name: str) -> datetime:
        """Return a time given as milliseconds since 1970, a number or quoted digits."""
        value = self.raw(name)
        if isinstance(value, str):
            value = Decimal(self.digits(name))
        if not (isinstance(value, Decimal) and fits(value, 18, 0) and 0 <= value <= _LAST_SECOND * 1000):
            raise self._unexpected(name, "milliseconds since 1970")
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(value))

    def seconds(self, name: str) -> datetime:
        """Return a time given as a number of seconds since 1970."""
        value = self.integer(name)
        if value is None or not 0 <= value <= _LAST_SECOND:
            raise self._unexpected(name, "seconds since 1970")
        return datetime.fromtimestamp(value, UTC)

    def moment(self, name: str, *, optional: bool = False) -> datetime | None:
        """Return a time given as RFC 3339 with a zone, in UTC."""
        value: Any = self._values.get(name) if optional else self.raw(name)
        if value is None and optional:
            return None
        try:
            found: datetime = datetime.fromisoformat(value)
            if found.tzinfo is None:
                raise ValueError
            return found.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            raise self._unexpected(name, "a time such as 2026-05-18T12:49:21.599Z") from None

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}"

    def _unexpected(self, name: str, expected: str) -> ResponseRejectedError:
        return ResponseRejectedError(f"{self._at(name)} is {_kind(self._values[name])}, expected {expected}")


def _is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode the text; JSON escapes can produce lone surrogates, which it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fits(value: Decimal, precision: int, scale: int) -> bool:
    """Return whether decimal(precision, scale) holds the value exactly. Cheap even for 1e400."""
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):  # NaN or infinite
        return False
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    if not significant:
        return True
    exponent += len(text) - len(significant)
    return -exponent <= scale and len(significant) + exponent <= precision - scale


def as_type(value: Decimal, column_type: str) -> Decimal:
    """Return the number at the scale of `decimal(p, s)`. Raises `ValueError` if it does not fit."""
    match = _DECIMAL_TYPE.fullmatch(column_type)
    if match is None:
        raise ValueError(f"{column_type} is not a decimal type")
    precision, scale = map(int, match.groups())
    if not fits(value, precision, scale):
        raise ValueError(f"{str(value)[:60]} does not fit {column_type}")
    with localcontext() as context:
        context.prec = precision
        return value.quantize(Decimal(1).scaleb(-scale))


def typed(row: dict[str, Any], table: TableSpec) -> dict[str, Any]:
    """Return the row with each decimal at its column's scale. Raises `ValueError` naming a column that overflows."""
    types = {column.name: column.type for column in table.columns}
    found = dict(row)
    for name, value in row.items():
        if isinstance(value, Decimal):
            try:
                found[name] = as_type(value, types[name])
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
    return found


def _kind(value: Any) -> str:
    """Format a value for an error message."""
    text = repr(value) if isinstance(value, str) else str(value)
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else text[:_SHOWN_BYTES]
