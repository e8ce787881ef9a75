"""What a batch source is: its requests, its table of raw answers, and its judgement of an answer. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.settings import Settings, Source

if TYPE_CHECKING:
    from cryptolake_assets.model.table_spec import TableSpec
    from cryptolake_assets.quality.candidate_checks import CheckOutcome

Row = dict[str, Any]


@dataclass(frozen=True)
class ParsedResponse:
    """An answer in the known shape: rows by table (`TableSpec.name`), without `updated_at`; `left_out` says in words
    which rows are odd: of another shape, or with a value that cannot be or that their column cannot hold."""

    rows: Mapping[str, list[Row]]
    left_out: tuple[str, ...] = ()


Plan = Generator[HttpRequest, ParsedResponse | None, None]
"""Yields requests one by one; it is sent what the answer held, None where it was refused."""

Held = Mapping[str, Sequence[Any]]
"""Values of a table's first key column by symbol, ascending; by the empty text in a table without symbols."""


@dataclass(frozen=True)
class Wanted:
    """What a run asks for: the rows of `day` and those since the `newest` held ones (by symbol, as `Held`)."""

    day: date
    clock: datetime
    """The source's: that of the exchange that is replayed, or this machine's."""
    newest: Mapping[str, Any] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()
    """Tracked symbols, of a source that is asked by symbol."""

    @property
    def start(self) -> datetime:
        """The first instant of `day`."""
        return datetime.combine(self.day, time(), UTC)


class BatchSource(ABC):
    """One source. A new one is a subclass with its tables, and an entry in `batch_sources`."""

    name: str
    """As logs, messages and the graph name it."""
    title: str
    """As descriptions name it."""
    raw: TableSpec
    """Its table of raw answers: the columns of `source_tables.raw_answers`."""
    silver: tuple[TableSpec, ...]
    recorded: str
    """Pattern of the files in a capture's directory that hold answers of it."""
    warns: tuple[str, ...] = ()
    """Names of the outcomes of `warnings`."""
    fresh_within: timedelta = timedelta(hours=3)
    has_history: bool = True
    """Whether an answer may hold rows of days before the one on which it was asked."""
    by_symbol: bool = False
    """Whether each answer is of one symbol, so that an odd one holds no other back."""
    held_where: str = ""
    """Filter on the rows of Silver that count as held, as PyIceberg writes it."""
    held_since: timedelta | None = None
    """How long before the clock rows count as held; None for all of them."""

    @abstractmethod
    def base_url(self, settings: Settings) -> str:
        """Return the address without a slash at the end."""

    @abstractmethod
    def calls_a_minute(self, settings: Settings) -> int:
        """Return the source's limit."""

    @abstractmethod
    def plan(self, settings: Settings, wanted: Wanted) -> Plan:
        """Return the requests of a run."""

    @abstractmethod
    def parse(self, endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        """Return the answer's rows; `asked_at` is by the source's clock. Raises `ResponseRejectedError` for another
        shape."""

    def headers(self, _settings: Settings) -> dict[str, str]:
        """Return what a request carries, with the key if there is one."""
        return {}

    def warnings(self, _held: Held, _wanted: Wanted) -> list[CheckOutcome]:
        """Return what the checks `warns` find in the published rows."""
        return []

    def can_be_asked(self, settings: Settings) -> bool:
        """Return whether it is there: live, or where the replayed capture has recorded answers."""
        return settings.source is Source.BINANCE or any(settings.replay_dir.glob(self.recorded))


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
