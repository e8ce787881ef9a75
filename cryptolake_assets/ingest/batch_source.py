"""What a batch source is: its requests, its table of raw answers, and its judgement of an answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.source_request import SourceRequest

if TYPE_CHECKING:
    from cryptolake_assets.model.table_spec import TableSpec
    from cryptolake_assets.settings import Settings

Row = dict[str, Any]


@dataclass(frozen=True)
class ParsedResponse:
    """An answer in the known shape: rows by table (`TableSpec.name`), without `updated_at`; `left_out` says in words
    which rows are odd: of another shape, or with a value that cannot be or that their column cannot hold."""

    rows: Mapping[str, list[Row]]
    left_out: tuple[str, ...] = ()


Plan = Generator[SourceRequest, ParsedResponse | None, None]
"""Yields requests one by one; it is sent what the answer held, None where it was refused."""


class BatchSource(Protocol):
    """One source. A new one is a module with such an object, its tables, and its assets in `defs/`."""

    name: str
    """As logs and messages name it."""
    raw: TableSpec
    """Its table of raw answers: the columns of `tables.RAW_ANSWER`."""
    has_history: bool
    """Whether an answer may hold rows of days before the one on which it was asked."""
    by_symbol: bool
    """Whether each answer is of one symbol, so that an odd one holds no other back."""

    def base_url(self, settings: Settings) -> str:
        """Without a slash at the end."""

    def headers(self, settings: Settings) -> dict[str, str]:
        """With the key, if there is one."""

    def calls_a_minute(self, settings: Settings) -> int:
        """The source's limit."""

    def parse(self, endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        """The answer's rows; `asked_at` is by the source's clock. Raises `ResponseRejectedError` for another shape."""


def parsed_rows(
    items: Sequence[Any], key: str, read: Callable[[Any, int], Row], place: str
) -> tuple[list[Row], list[str]]:
    """Return the rows that `read` makes of the items and their numbers, by `key` ascending, and what is left out.

    An odd item, for which `read` raises `ResponseRejectedError`, holds no other back; of a key that comes twice the
    first row counts.
    """
    rows: dict[Any, Row] = {}
    left_out: list[str] = []
    for number, item in enumerate(items):
        try:
            row = read(item, number)
        except ResponseRejectedError as error:
            left_out.append(f"{place}: {error}")
            continue
        if rows.setdefault(row[key], row) != row:
            left_out.append(f"{place}: answer[{number}] is another row of {key} {row[key]}")
    return [rows[found] for found in sorted(rows)], left_out


def by_key(table: TableSpec, rows: list[Row]) -> list[Row]:
    """One row a key: the last one."""
    return list({tuple(row[name] for name in table.key): row for row in rows}.values())
