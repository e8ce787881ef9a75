"""Interface of a batch source: its requests, its table of raw responses, and its parser. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from cryptolake_assets.captures.market_of_capture import recorded_files
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

    `rejected_rows` describes the rejected rows: of another shape, or with an impossible value or one that does not fit
    its column.
    """

    rows: Mapping[str, list[Row]]
    rejected_rows: tuple[str, ...] = ()


# Yields requests one by one; receives each parsed response, None if it was rejected.
Plan = Generator[HttpRequest, ParsedResponse | None, None]

# Stored values of a table's first key column by symbol, ascending; the symbol is "" in a table without symbols.
StoredKeys = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class RequestScope:
    """The rows that a run requests: those of `day`, and those after the `newest` stored keys (by symbol)."""

    day: date
    clock: datetime  # the source's clock: the replayed exchange's, or this machine's
    newest: Mapping[str, Any] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()  # tracked symbols, for a source with one request per symbol

    @property
    def start(self) -> datetime:
        """The first instant of `day`."""
        return datetime.combine(self.day, time(), UTC)


class BatchSource(ABC):
    """A batch source. To add one, write a subclass with its tables and add it to `batch_sources`."""

    name: str  # name in logs, messages and the graph
    title: str  # name in descriptions
    raw: TableSpec  # table of raw responses: the columns of `source_tables.raw_responses`
    silver: tuple[TableSpec, ...]
    recorded: str  # pattern of the files with its responses in a capture's directory
    warning_checks: tuple[str, ...] = ()  # check names of the outcomes of `warnings`
    fresh_within: timedelta = timedelta(hours=3)
    has_history: bool = True  # whether a response may hold rows of days before its request
    by_symbol: bool = False  # whether each response is of one symbol, so that a rejected one does not block others
    stored_where: str = ""  # filter for the Silver rows that count as stored, in PyIceberg's syntax
    stored_within: timedelta | None = None  # maximum age of rows that count as stored; None for no limit

    def settings_of(self, settings: Settings) -> Settings:
        """Return the settings of the source's market; of the platform if it has none."""
        return settings

    @abstractmethod
    def base_url(self, settings: Settings) -> str:
        """Return the base URL without a trailing slash."""

    @abstractmethod
    def calls_a_minute(self, settings: Settings) -> int:
        """Return the maximum number of requests per minute."""

    @abstractmethod
    def plan(self, settings: Settings, scope: RequestScope) -> Plan:
        """Return the requests of a run."""

    @abstractmethod
    def parse(self, endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        """Return the response's rows; `asked_at` is the request time by the source's clock.

        Raises `ResponseRejectedError` for a response of another shape.
        """

    def headers(self, _settings: Settings) -> dict[str, str]:
        """Return the request headers, with the API key if there is one."""
        return {}

    def warnings(self, _stored: StoredKeys, _scope: RequestScope) -> list[CheckOutcome]:
        """Return the outcomes of `warning_checks` on the published rows."""
        return []

    def is_available(self, settings: Settings) -> bool:
        """Return whether the source is available: live, or with recorded responses in the replayed capture."""
        return settings.source is Source.BINANCE or bool(recorded_files(settings.replay_dir, self.recorded))


def parsed_rows(
    items: Sequence[Any], key: str, read: Callable[[Any, int], Row], place: str
) -> tuple[list[Row], list[str]]:
    """Parse items with `read(item, number)`; return the rows, ascending by `key`, and descriptions of rejected items.

    An item for which `read` raises `ResponseRejectedError` is rejected and does not block others. Of rows with the same
    key the first one is used.
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
            rejected_rows.append(
                f"{place}: response[{number}] has other values for {key} {row[key]} than an earlier row"
            )
    return [rows[found] for found in sorted(rows)], rejected_rows


def by_key(table: TableSpec, rows: list[Row]) -> list[Row]:
    """Deduplicate rows by key; keep the last row of each key."""
    return list({tuple(row[name] for name in table.key): row for row in rows}.values())
