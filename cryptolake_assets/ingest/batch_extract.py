"""Load batch sources: every response into Bronze as received, accepted ones from there into Silver.

Silver is built from Bronze alone, so it can be rebuilt without requests; a rejected response changes nothing in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import structlog

from cryptolake_assets.binance.exchange_clock import exchange_clock_ms
from cryptolake_assets.binance.rest import INVALID_SYMBOL
from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.errors import ExchangeError, ResponseRejectedError
from cryptolake_assets.http.http_client import HttpResponse, RetryPolicy
from cryptolake_assets.http.json_reader import parse_json
from cryptolake_assets.http.source_client import SourceClient
from cryptolake_assets.ingest.batch_source import BatchSource, ParsedResponse, RequestScope, Row, StoredKeys, by_key
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, keys_of, publish
from cryptolake_assets.lake.coverage import streamed_symbols
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import between
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import DAY, day_of
from cryptolake_assets.quality.batch_checks import BATCH_RULES, rows_rejected
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.settings import Settings, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression

log = structlog.get_logger(__name__)

NOT_LISTED = "the exchange does not list the symbol"
# With these statuses a rejected response concerns only its symbol; with others, such as a ban, all symbols.
_ONE_SYMBOL_STATUSES = (200, 400)


@dataclass(frozen=True)
class Extraction:
    """Result of a run's requests.

    `rejected` lists (URL, reason) of the rejected responses that fail the run, `skipped` of those that concern a single
    symbol and do not; `rejected_rows` describes the rejected rows of accepted responses.
    """

    responses: int
    size_bytes: int
    rows: int
    rejected: tuple[tuple[str, str], ...]
    snapshot_id: int | None
    skipped: tuple[tuple[str, str], ...] = ()
    rejected_rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchCandidate:
    """Rows of a table from accepted responses, and the outcomes of the blocking checks."""

    spec: TableSpec
    rows: pa.Table
    outcomes: list[CheckOutcome]
    rejected_rows: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)


def source_clock(settings: Settings) -> datetime:
    """Return the current time of a source: the replayed exchange's clock, or this machine's.

    Raises `ExchangeError` if the replay exchange does not respond.
    """
    if settings.source is Source.BINANCE:
        return datetime.now(UTC)
    clock_ms = exchange_clock_ms(settings)
    if clock_ms is None:
        raise ExchangeError(
            f"exchange: {settings.rest_url} does not respond, so the replayed time is unknown. "
            "Check `cryptolake status` and `cryptolake logs exchange`."
        )
    return datetime.fromtimestamp(clock_ms / 1000, UTC)


def request_scope(settings: Settings, source: BatchSource, day: date, *, full_history: bool = False) -> RequestScope:
    """Return the rows that a run of the day requests; `full_history` ignores stored rows.

    Raises `ExchangeError` if the replay exchange does not respond.
    """
    clock = source_clock(settings)
    stored = {} if full_history or not source.has_history else stored_keys(settings, source, source.silver[0], clock)
    newest = {symbol: values[-1] for symbol, values in stored.items()}
    symbols: set[str] = set()
    if source.by_symbol:
        market = source.settings_of(settings)
        symbols = {*resolve_subscriptions(market).symbols, *streamed_symbols(market, clock - DAY)}
    return RequestScope(day, clock, newest, tuple(sorted(symbols)))


def stored_keys(settings: Settings, source: BatchSource, spec: TableSpec, clock: datetime) -> StoredKeys:
    """Return the stored times of the table's rows, by symbol, within the source's filter and age limit."""
    column, by_symbol = spec.time_column, "symbol" in spec.column_names
    scan = load_table(settings, spec).scan(selected_fields=(column, "symbol") if by_symbol else (column,))
    if source.stored_within is not None:
        scan = scan.filter(f"{column} >= '{(clock - source.stored_within).isoformat()}'")
    if source.stored_where:
        scan = scan.filter(source.stored_where)
    rows = scan.to_arrow()
    values = rows.column(column).to_pylist()
    symbols = rows.column("symbol").to_pylist() if by_symbol else [""] * len(values)
    found: dict[str, list[Any]] = {}
    for symbol, value in sorted(zip(symbols, values, strict=True)):
        found.setdefault(symbol, []).append(value)
    return found


def extract(
    settings: Settings,
    source: BatchSource,
    scope: RequestScope,
    run_id: str,
    retry_policy: RetryPolicy | None = None,
) -> Extraction:
    """Send the requests of the source's plan, parse the responses and append them to Bronze in one commit.

    Errors of the source are recorded in the result and not raised.
    """
    plan, asked_at, partition = source.plan(settings, scope), scope.clock, scope.day
    records: list[Row] = []
    skippable: list[tuple[str, str]] = []
    rejected_rows: list[str] = []
    rows = 0
    with SourceClient(
        source.base_url(settings), source.headers(settings), source.calls_a_minute(settings), retry_policy
    ) as http:
        request = next(plan, None)
        while request is not None:
            response = http.get(request)
            parsed, reason = _parse(source, response, asked_at)
            records.append(_record(response, reason, asked_at, partition, run_id))
            if parsed is not None:
                rows += sum(len(found) for found in parsed.rows.values())
                rejected_rows += parsed.rejected_rows
            elif source.by_symbol and reason is not None and response.status in _ONE_SYMBOL_STATUSES:
                skippable.append((response.url, reason))
            try:
                request = plan.send(parsed)
            except StopIteration:
                request = None
    table = load_table(settings, source.raw)
    if records:
        table.append(_table(source.raw, records))
    reasons = [(row["url"], row["refused"]) for row in records if row["refused"]]
    # If no response was accepted, the cause is not a single symbol: fail the run.
    skipped = tuple(skippable) if len(skippable) < len(records) else ()
    rejected = tuple(item for item in reasons if item not in skipped)
    log.info(
        "source_extracted", source=source.name, responses=len(records), rows=rows, rejected=rejected, skipped=skipped
    )
    if rejected_rows:
        log.warning("source_rows_rejected", source=source.name, rows=len(rejected_rows), sample=rejected_rows[:20])
    return Extraction(
        responses=len(records),
        size_bytes=sum(len(row["body"]) for row in records),
        rows=rows,
        rejected=rejected,
        snapshot_id=table.refresh().metadata.current_snapshot_id,
        skipped=skipped,
        rejected_rows=tuple(rejected_rows),
    )


def prepare(settings: Settings, source: BatchSource, spec: TableSpec, partition: date) -> BatchCandidate:
    """Build rows of `spec` from the partition's accepted responses; of rows with the same key the last one is used.

    If the source has history, later partitions' responses are read too, so rebuilding an old day does not restore
    outdated values.
    """
    rows: list[Row] = []
    rejected_rows: list[str] = []
    for record in _accepted(settings, source, partition):
        parsed = source.parse(record["endpoint"], record["body"], record["asked_at"])
        if spec.name in parsed.rows:
            rows += parsed.rows[spec.name]
            rejected_rows += parsed.rejected_rows
    candidate = _table(spec, [{**row, "updated_at": None} for row in by_key(spec, rows)])
    with open_duckdb() as duck:
        outcomes = check_candidate(duck, spec, candidate, BATCH_RULES[spec.name])
    return BatchCandidate(spec, candidate, outcomes, rejected_rows)


def commit(settings: Settings, candidate: BatchCandidate, run_id: str) -> Publication:
    """Upsert the candidate in one commit, or in none if nothing changed."""
    spec, rows = candidate.spec, candidate.rows
    return publish(
        load_table(settings, spec), spec, _window(spec, rows), rows, keys_of(spec, rows), {"cryptolake.run-id": run_id}
    )


def published_warnings(
    settings: Settings, source: BatchSource, candidate: BatchCandidate, day: date
) -> list[CheckOutcome]:
    """Return the outcomes of the non-blocking checks on the published rows."""
    outcomes = [rows_rejected(candidate.rejected_rows)]
    if source.warning_checks:
        scope = request_scope(settings, source, day, full_history=True)
        outcomes += source.warnings(stored_keys(settings, source, candidate.spec, scope.clock), scope)
    return outcomes


def _parse(source: BatchSource, response: HttpResponse, asked_at: datetime) -> tuple[ParsedResponse | None, str | None]:
    if response.failure is not None:
        return None, NOT_LISTED if _is_not_listed(response) else response.failure
    try:
        return source.parse(response.request.endpoint, response.body, asked_at), None
    except ResponseRejectedError as error:
        return None, str(error)


def _is_not_listed(response: HttpResponse) -> bool:
    """Return whether the exchange reported that it does not list the requested symbol."""
    try:
        return bool(parse_json(response.body)["code"] == INVALID_SYMBOL)
    except (ResponseRejectedError, TypeError, KeyError):
        return False


def _record(response: HttpResponse, reason: str | None, asked_at: datetime, partition: date, run_id: str) -> Row:
    """Return the response as a row of Bronze."""
    return {
        "fetched_at": response.fetched_at,
        "asked_at": asked_at,
        "partition_date": partition,
        "endpoint": response.request.endpoint,
        "url": response.url,
        "status": response.status,
        "etag": response.etag,
        "sha256": hashlib.sha256(response.body).hexdigest(),
        "body": response.body,
        "refused": reason,
        "run_id": run_id,
    }


def _accepted(settings: Settings, source: BatchSource, partition: date) -> list[Row]:
    """Return the accepted responses, oldest first."""
    operator = ">=" if source.has_history else "=="
    condition = f"partition_date {operator} '{partition.isoformat()}' and refused is null"
    found: list[Row] = load_table(settings, source.raw).scan(row_filter=condition).to_arrow().to_pylist()
    return sorted(found, key=lambda row: (row["fetched_at"], row["url"]))


def _window(spec: TableSpec, rows: pa.Table) -> str | BooleanExpression:
    """Return the filter for the partitions of the rows."""
    from pyiceberg.expressions import AlwaysTrue

    if spec.partition is None or not rows.num_rows:
        return AlwaysTrue()
    column, transform = spec.partition
    moments = rows.column(column).to_pylist()
    first, last = day_of(min(moments)), day_of(max(moments))
    if transform == "month":
        first, last = first.replace(day=1), (last.replace(day=1) + 32 * DAY).replace(day=1) - DAY
    return between(column, first, last + DAY)


def _table(spec: TableSpec, rows: list[Row]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=spec.arrow_schema())
