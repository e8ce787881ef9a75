"""Interface of a batch source: its requests, its table of raw responses, and its parser. Pure."""

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
    """An accepted response: rows by table (`TableSpec.name`), without `updated_at`.

    `rejected_rows` describes odd rows: of another shape, or with a value that is impossible or does not fit its column.
    """

    rows: Mapping[str, list[Row]]
    rejected_rows: tuple[str, ...] = ()


# Yields requests one by one; receives the parsed response, None if it was rejected.
Plan = Generator[HttpRequest, ParsedResponse | None, None]

# Values of a table's first key column by symbol, ascending; the symbol is empty in a table without symbols.
Held = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Wanted:
    """The rows that a run requests: those of `day`, and those since the `newest` held ones (by symbol, as `Held`)."""

    day: date
    clock: datetime  # the source's: that of the replayed exchange, or this machine's
    newest: Mapping[str, Any] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()  # tracked symbols, for a source with requests by symbol

    @property
    def start(self) -> datetime:
        """The first instant of `day`."""
        return datetime.combine(self.day, time(), UTC)


class BatchSource(ABC):
    """A batch source. To add one, write a subclass with its tables, and an entry in `batch_sources`."""

    name: str  # name in logs, messages and the graph
    title: str  # name in descriptions
    raw: TableSpec  # table of raw responses: the columns of `source_tables.raw_answers`
    silver: tuple[TableSpec, ...]
    recorded: str  # pattern of the files in a capture's directory that hold its responses
    warns: tuple[str, ...] = ()  # names of the outcomes of `warnings`
    fresh_within: timedelta = timedelta(hours=3)
    has_history: bool = True  # whether a response may hold rows of days before its request
    by_symbol: bool = False  # whether each response is of one symbol, so that an odd one does not block others
    stored_where: str = ""  # filter on the rows of Silver that count as held, in PyIceberg's syntax
    stored_within: timedelta | None = None  # how long before the clock rows count as held; None for all rows

    @abstractmethod
    def base_url(self, settings: Settings) -> str:
        """Return the base URL without a trailing slash."""

    @abstractmethod
    def calls_a_minute(self, settings: Settings) -> int:
        """Return the source's request limit."""

    @abstractmethod
    def plan(self, settings: Settings, wanted: Wanted) -> Plan:
        """Return the requests of a run."""

    @abstractmethod
    def parse(self, endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        """Return the response's rows; `asked_at` is by the source's clock.

        Raises `ResponseRejectedError` for another shape.
        """

    def headers(self, _settings: Settings) -> dict[str, str]:
        """Return the request headers, with the API key if there is one."""
        return {}

    def warnings(self, _held: Held, _wanted: Wanted) -> list[CheckOutcome]:
        """Return the outcomes of the checks `warns` on the published rows."""
        return []

    def can_be_asked(self, settings: Settings) -> bool:
        """Return whether the source is available: live, or with recorded responses in the replayed capture."""
        return settings.source is Source.BINANCE or any(settings.replay_dir.glob(self.recorded))


def parsed_rows(
    items: Sequence[Any], key: str, read: Callable[[Any, int], Row], place: str
) -> tuple[list[Row], list[str]]:
    """Return the rows that `read` makes of the items and their numbers, by `key` ascending, and the odd items.

    An odd item, for which `read` raises `ResponseRejectedError`, does not block others; of duplicate keys the first row
    counts.
    """
    rows: dict[Any, Row] = {}
    rejected_rows: list[str] = []
    for number, item in enumerate(items):
        try:
            row = read(item, number)
        except ResponseRejectedError as error:
            rejected_rows.append(f"{place}: {error}")
            continue
        if rows.setdefault(row[key], row) != row:
            rejected_rows.append(f"{place}: answer[{number}] is another row of {key} {row[key]}")
    return [rows[found] for found in sorted(rows)], rejected_rows


def by_key(table: TableSpec, rows: list[Row]) -> list[Row]:
    """Deduplicate rows by key; the last one counts."""
    return list({tuple(row[name] for name in table.key): row for row in rows}.values())
