"""Silver of order books by write-audit-publish: an hour's seconds, checkpoints and gaps from Bronze.

    load_inputs → build_candidate → check → publish

A run continues each book from its last checkpoint before the new updates. It also completes the end of the hour before,
whose last seconds are over only once an update of this hour proves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from cryptolake_assets.lake import commit
from cryptolake_assets.lake.book_rows import (
    checkpoint_rows,
    checkpoints_of,
    gap_rows,
    gaps_of,
    second_rows,
    snapshots_of,
    tops_of,
    updates_of,
)
from cryptolake_assets.lake.bronze_files import files_between
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import Publication, keys_of, read_window
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import all_of, at_least, at_most, below, equal, is_null
from cryptolake_assets.model.book_seconds import BookSeconds, Checkpoint, DifferentTop, GapOfBook
from cryptolake_assets.model.order_book import in_order
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import DAY, HOUR, MICROSECOND, epoch_us, hour_of, moment_of
from cryptolake_assets.quality.book_checks import RULES, tops_equal, updates_accounted
from cryptolake_assets.quality.candidate_checks import CheckOutcome, check_candidate
from cryptolake_assets.settings import Settings, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression

log = structlog.get_logger(__name__)

Book = tuple[str, str]  # exchange, symbol

CHECKPOINT_SEARCH: Final = DAY  # before the run's hour: a quiet book has no update for long
# Before the run's hour: a book without a checkpoint may have become known in this time.
UNSYNCED_SEARCH: Final = timedelta(minutes=15)
CLOCK_MARGIN: Final = HOUR  # between event times and receive times, when live


@dataclass(frozen=True)
class BookInputs:
    """Rows of Bronze for the books of an hour, and where each book continues."""

    hour: datetime
    updates: Mapping[Book, pa.Table]
    snapshots: Mapping[Book, pa.Table]
    tickers: Mapping[Book, pa.Table]
    starts: Mapping[Book, Checkpoint]
    open_gaps: Mapping[Book, GapOfBook]
    bronze_snapshot: int | None


@dataclass(frozen=True)
class BookCandidate:
    """The rows of a run before publication; `outcomes` is empty until the candidate is checked."""

    seconds: pa.Table
    checkpoints: pa.Table
    gaps: pa.Table
    replaces_from: Mapping[Book, datetime]  # the rows of a book from this time on are replaced
    updates: int
    unfinished: int  # updates of seconds that are not over
    compared: int
    different: Sequence[tuple[str, DifferentTop]]
    bronze_snapshot: int | None
    outcomes: Sequence[CheckOutcome] = ()
    observations: Sequence[CheckOutcome] = field(default=())

    @property
    def passed(self) -> bool:
        return bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)


def run_books(
    settings: Settings, hour: datetime, run_id: str, *, from_sequence: int | None = None
) -> tuple[BookCandidate, Publication | None]:
    """Refresh the books of an hour of the settings' family; the publication is None if a check failed.

    Continues from the updates that Bronze files of `from_sequence` and later hold; from the hour's start if it is None.
    """
    tables = settings.tables
    candidate = check(tables.book_1s, build_candidate(settings, load_inputs(settings, hour, from_sequence)))
    return candidate, publish(settings, hour, candidate, run_id) if candidate.passed else None


def load_inputs(settings: Settings, hour: datetime, from_sequence: int | None) -> BookInputs:
    """Return the inputs of the hour's run."""
    tables, end = settings.tables, hour + HOUR
    bronze = load_table(settings, tables.depth_updates)
    snapshot = bronze.metadata.current_snapshot_id
    begin = hour
    if from_sequence is not None and snapshot is not None:
        new = [file for file in files_between(bronze, snapshot, hour, end) if file.sequence >= from_sequence]
        begin = max(hour, min((file.earliest for file in new), default=hour))
    starts = _starts(settings, hour - CHECKPOINT_SEARCH, begin)
    updates, low = _updates(settings, starts, begin, hour)
    ids = _id_bounds(list(updates.values()))
    received = _received(settings, low, end)
    snapshots = _scan(
        settings,
        tables.depth_snapshots,
        all_of(at_least("last_update_id", ids[0]), at_most("last_update_id", ids[1]), *received),
    )
    is_timed = tables.book_tickers.partition == ("event_time", "hour")
    tickers = _scan(
        settings,
        tables.book_tickers,
        all_of(
            at_least("update_id", ids[0]),
            at_most("update_id", ids[1]),
            *([_within("event_time", low, end)] if is_timed else received),
        ),
    )
    # Later ones are found again.
    gaps = _scan(settings, tables.book_gaps, all_of(is_null("synced_at"), _within("window_start", hour - DAY, low)))
    return BookInputs(hour, updates, _by_book(snapshots), _by_book(tickers), starts, gaps_of(gaps), snapshot)


def _updates(
    settings: Settings, starts: Mapping[Book, Checkpoint], begin: datetime, hour: datetime
) -> tuple[dict[Book, pa.Table], datetime]:
    """Return the updates since the starts, to the end of the hour, of books with updates since `begin`; and the
    earliest time of all but quiet books."""
    spec, end, recent = settings.tables.depth_updates, hour + HOUR, hour - UNSYNCED_SEARCH
    since = {book: moment_of(start.time_us) for book, start in starts.items()}
    low = min([begin, *(moment for moment in since.values() if moment >= recent)])
    found = _by_book(_scan(settings, spec, _within("event_time", low, end)))
    if found.keys() - since.keys():
        # A snapshot may have joined updates before the new ones.
        low = min(low, recent)
        found |= _by_book(_scan(settings, spec, _within("event_time", low, end)))
    for book in found:
        if since.get(book, low) < low:
            of_book = all_of(equal("exchange", book[0]), equal("symbol", book[1]))
            found[book] = _scan(settings, spec, all_of(of_book, _within("event_time", since[book], end)))
    found = {book: _after(rows, starts.get(book)) for book, rows in found.items()}
    return {book: rows for book, rows in found.items() if rows.num_rows}, low


def _starts(settings: Settings, first: datetime, last: datetime) -> dict[Book, Checkpoint]:
    """Return the newest checkpoint of each book from `first` to `last`; reads only the levels of these."""
    import pyarrow.compute as pc

    spec = settings.tables.book_checkpoints
    table, within = load_table(settings, spec), all_of(at_least("window_start", first), at_most("window_start", last))
    keys = table.scan(row_filter=within, selected_fields=spec.key).to_arrow()
    newest = {book: pc.max(of_book["window_start"]).as_py() for book, of_book in _by_book(keys).items()}
    found: dict[Book, Checkpoint] = {}
    for moment in set(newest.values()):
        books = checkpoints_of(_scan(settings, spec, equal("window_start", moment)))
        found |= {book: checkpoint for book, checkpoint in books.items() if newest[book] == moment}
    return found


def build_candidate(settings: Settings, inputs: BookInputs) -> BookCandidate:
    """Rebuild the books from their starts."""
    import pyarrow as pa

    tables = settings.tables
    seconds, checkpoints, gaps = [], [], []
    replaces_from: dict[Book, datetime] = {}
    different: list[tuple[str, DifferentTop]] = []
    compared = taken = unfinished = 0
    for book, rows in sorted(inputs.updates.items()):
        start = inputs.starts.get(book)
        made = BookSeconds(
            start,
            open_gap=None if start else inputs.open_gaps.get(book),
            tops=tops_of(inputs.tickers[book]) if book in inputs.tickers else None,
        )
        snapshots = snapshots_of(inputs.snapshots[book]) if book in inputs.snapshots else []
        of_book = second_rows(tables.book_1s, *book, made.take(in_order(updates_of(rows), snapshots)))
        seconds.append(of_book)
        checkpoints.append(checkpoint_rows(tables.book_checkpoints, *book, made.checkpoints))
        gaps.append(gap_rows(tables.book_gaps, *book, made.gaps))
        replaces_from[book] = moment_of(made.began_us)
        different += [(book[1], one) for one in made.tops_different]
        compared += made.tops_compared
        taken, unfinished = taken + made.taken, unfinished + made.unfinished
    return BookCandidate(
        seconds=pa.concat_tables([tables.book_1s.arrow_schema().empty_table(), *seconds]),
        checkpoints=pa.concat_tables([tables.book_checkpoints.arrow_schema().empty_table(), *checkpoints]),
        gaps=pa.concat_tables([tables.book_gaps.arrow_schema().empty_table(), *gaps]),
        replaces_from=replaces_from,
        updates=taken,
        unfinished=unfinished,
        compared=compared,
        different=different,
        bronze_snapshot=inputs.bronze_snapshot,
    )


def check(spec: TableSpec, candidate: BookCandidate) -> BookCandidate:
    """Return the candidate with the outcomes of its checks."""
    with open_duckdb() as duck:
        outcomes = check_candidate(duck, spec, candidate.seconds, RULES)
    accounted = updates_accounted(candidate.seconds, candidate.updates, candidate.unfinished)
    return replace(
        candidate,
        outcomes=[*outcomes, accounted],
        observations=[tops_equal(candidate.compared, candidate.different)],
    )


def publish(settings: Settings, hour: datetime, candidate: BookCandidate, run_id: str) -> Publication:
    """Replace the rows of a passed candidate's books, in one commit per table; the seconds are last."""
    tables = settings.tables
    # The checkpoint at the start of a book stays.
    after_start = {book: start + MICROSECOND for book, start in candidate.replaces_from.items()}
    _replace(settings, tables.book_checkpoints, hour, after_start, candidate.checkpoints, run_id)
    since = candidate.replaces_from
    _replace(settings, tables.book_gaps, hour, since, candidate.gaps, run_id, column="next_event_time")
    publication = _replace(settings, tables.book_1s, hour, since, candidate.seconds, run_id)
    log.info(
        "books_published",
        hour=hour.isoformat(),
        books=len(candidate.replaces_from),
        updates=candidate.updates,
        rows=candidate.seconds.num_rows,
        rows_changed=publication.rows_changed,
        gaps=candidate.gaps.num_rows,
        tops_compared=candidate.compared,
        tops_different=len(candidate.different),
        snapshot=publication.snapshot_id,
    )
    return publication


def _replace(
    settings: Settings,
    spec: TableSpec,
    hour: datetime,
    since: Mapping[Book, datetime],
    rows: pa.Table,
    run_id: str,
    column: str = "window_start",
) -> Publication:
    """Replace by `rows` those of the books whose `column` is not before their time in `since`."""
    import pyarrow.compute as pc

    table = load_table(settings, spec)
    starts = [hour, *since.values()]
    if rows.num_rows:
        starts.append(pc.min(rows["window_start"]).as_py())
    window = _within("window_start", hour_of(min(starts)), hour + HOUR)
    present = _by_book(read_window(table, window))
    replaced = [
        of_book.filter(pc.greater_equal(of_book[column], _scalar(since[book], of_book)))
        for book, of_book in present.items()
        if book in since
    ]
    keys = keys_of(spec, *replaced, rows)
    return commit.publish(table, spec, window, rows, keys, {"cryptolake.run-id": run_id})


def _scan(settings: Settings, spec: TableSpec, rows: BooleanExpression) -> pa.Table:
    names = tuple(name for name in spec.column_names if not name.startswith("kafka_") and name != "updated_at")
    return load_table(settings, spec).scan(row_filter=rows, selected_fields=names).to_arrow()


def _within(column: str, start: datetime, end: datetime) -> BooleanExpression:
    return all_of(at_least(column, start), below(column, end))


def _received(settings: Settings, start: datetime, end: datetime) -> list[BooleanExpression]:
    """Return the bounds of receive times; a replay receives recorded events at any time."""
    if settings.source is Source.REPLAY:
        return []
    return [_within("ingest_ts", start - CLOCK_MARGIN, end + CLOCK_MARGIN)]


def _by_book(rows: pa.Table) -> dict[Book, pa.Table]:
    import pyarrow.compute as pc

    found: dict[Book, pa.Table] = {}
    for exchange in pc.unique(rows["exchange"]).to_pylist():
        of_exchange = rows.filter(pc.equal(rows["exchange"], exchange))
        for symbol in pc.unique(of_exchange["symbol"]).to_pylist():
            found[exchange, symbol] = of_exchange.filter(pc.equal(of_exchange["symbol"], symbol))
    return found


def _after(rows: pa.Table, start: Checkpoint | None) -> pa.Table:
    """Return the updates that a checkpoint does not contain."""
    import pyarrow.compute as pc

    if start is None:
        return rows
    return rows.filter(pc.greater_equal(rows["event_time"], _scalar(moment_of(start.time_us), rows, "event_time")))


def _scalar(moment: datetime, rows: pa.Table, column: str = "window_start") -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(epoch_us(moment), pa.int64()).cast(rows.schema.field(column).type)


def _id_bounds(tables: Sequence[pa.Table]) -> tuple[int, int]:
    import pyarrow.compute as pc

    # The snapshot before the first update joins it by its previous id.
    firsts = [pc.min(rows["first_update_id"]).as_py() for rows in tables]
    firsts += [first for rows in tables if (first := pc.min(rows["previous_update_id"]).as_py()) is not None]
    return min(firsts, default=0) - 1, max((pc.max(rows["final_update_id"]).as_py() for rows in tables), default=-1)
