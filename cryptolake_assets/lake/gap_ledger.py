"""Read and write the gap ledgers, `bronze.*_trade_gaps`: detected gaps and their outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import expire_snapshots
from cryptolake_assets.lake.filters import above, all_of, any_of, at_least, at_most, equal, is_null
from cryptolake_assets.lake.retries import commit_attempts
from cryptolake_assets.lake.touched_files import closed_apart, read_touched, replace_touched
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import HOUR, epoch_us, moment_of
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

MAX_SPANS: Final = 50  # spans of time whose gaps a write reads apart


class ClosedBy(StrEnum):
    """The source of a gap's last missing trade."""

    STREAM = "stream"
    REST = "rest"


class GapOutcome(StrEnum):
    """The outcome of a closed gap."""

    ARRIVED = "arrived"  # every missing trade arrived later: the exchange sent it out of order or again
    REPAIRED = "repaired"  # the trades were fetched from the exchange's history
    # The exchange has trades before and after the ids and none with them: they belong to the insurance fund or to
    # auto-deleveraging, which its trade history omits. No order-book trade is lost.
    NOT_ORDER_BOOK = "not_order_book"


class OpenBecause(StrEnum):
    """Why a gap is not repaired."""

    NEEDS_KEY = "needs_key"  # the history of single trades needs an API key (CRYPTOLAKE_BINANCE_API_KEY)
    # The gap was larger than CRYPTOLAKE_GAP_REPAIR_MAX_IDS: only the public archive can fill this older part.
    BEYOND_LIMIT = "beyond_limit"
    NO_HISTORY = "no_history"  # the venue has no history that can be requested by id
    NOT_AT_EXCHANGE = "not_at_exchange"  # the exchange returned only a part of the gap, or nothing
    # The exchange sent the trades, and the contract rejected them: their frames are dead letters. A producer with
    # another contract version requests them again.
    REJECTED = "rejected"
    # Kafka deleted records before Bronze read them. The producer bounds the gap and fetches its trades.
    LOST_IN_KAFKA = "lost_in_kafka"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the contract rejected a gap's first trade, and its dead letter on the topic of rejected frames.

    Partition and offset are None until the dead letters of all of the gap's trades are acknowledged.
    """

    reason: str
    contract_version: int
    partition: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class TradeGap:
    """Missing ids of (exchange, symbol, stream) between two received trades.

    `after_us` and `before_us` are the event times of these two (µs since 1970, UTC): the missing trades happened in
    between. `ids_missing` counts the ids from `first_missing_id` to `last_missing_id` that have not arrived. An open
    gap has no `closed_at`, `closed_by` and `outcome`; `open_because` is the reason why it is not repaired, and with
    the reason `REJECTED` it has a `rejection`. The trades that closed a gap are in Kafka below `kafka_offset`.
    `ids_not_order_book` counts ids that no order-book trade has. A gap with the reason `LOST_IN_KAFKA` and no
    `ids_missing` has no known end: the trades from `first_missing_id` on may be missing.

    Key: (exchange, symbol, stream, first_missing_id).
    """

    exchange: str
    symbol: str
    stream: str
    first_missing_id: int
    last_missing_id: int
    ids_missing: int
    after_us: int
    before_us: int
    detected_at: datetime
    closed_at: datetime | None = None
    closed_by: ClosedBy | None = None
    outcome: GapOutcome | None = None
    kafka_partition: int | None = None
    kafka_offset: int | None = None
    ids_not_order_book: int = 0
    open_because: OpenBecause | None = None
    rejection: Rejection | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.exchange, self.symbol, self.stream, self.first_missing_id


class IcebergGapSink:
    """Writer of the gaps of the settings' market to the ledger of its family.

    A closed gap does not change, because a repeated replay, or a producer that reads the end of the topic, detects it
    again. Only records lost in Kafka reopen it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spec: TableSpec = settings.tables.gaps
        self._version_without_lost: int | None = None

    def write(self, gaps: Sequence[TradeGap]) -> None:
        """Upsert the gaps; without a change, commit nothing. Blocks; raises the catalog's errors.

        Reads and replaces only files with gaps of about the same time.
        """
        from pyiceberg.exceptions import CommitFailedException, ValidationException

        for attempt in commit_attempts(CommitFailedException, ValidationException):
            with attempt:
                table = load_table(self._settings, self._spec)
                is_changed = bool(gaps) and self._write(table, gaps)
        if is_changed:
            expire_snapshots(table)

    def open_gaps(self) -> list[TradeGap]:
        """Return the market's open gaps. Blocks; raises the catalog's errors."""
        table = load_table(self._settings, self._spec)
        of_market = equal("exchange", self._settings.venue.exchange)
        rows = table.scan(row_filter=all_of(of_market, is_null("closed_at"))).to_arrow()
        return [_gap(row) for row in rows.to_pylist()]

    def lost_gaps(self) -> list[TradeGap]:
        """Return the market's gaps of records lost in Kafka. Blocks; raises the catalog's errors.

        Reads the ledger only if it has changed since the last call, or the last call found gaps.
        """
        table = load_table(self._settings, self._spec)
        version = table.metadata.current_snapshot_id
        if version == self._version_without_lost:
            return []
        lost = equal("open_because", OpenBecause.LOST_IN_KAFKA.value)
        of_market = equal("exchange", self._settings.venue.exchange)
        gaps = [_gap(row) for row in table.scan(row_filter=all_of(of_market, lost)).to_arrow().to_pylist()]
        if not gaps:
            self._version_without_lost = version
        return gaps

    def _write(self, table: Table, gaps: Sequence[TradeGap]) -> bool:
        """Commit the changed gaps; return whether there are any."""
        import pyarrow as pa
        import pyarrow.compute as pc

        tasks, stored = read_touched(table, _near([moment_of(gap.after_us) for gap in gaps]))
        ids = pa.array([gap.first_missing_id for gap in gaps], pa.int64())
        candidates = stored.append_column("number", pa.array(range(stored.num_rows), pa.int64()))
        candidates = candidates.filter(pc.is_in(stored["first_missing_id"], ids))
        before = {tuple(row[name] for name in self._spec.key): row for row in candidates.to_pylist()}
        known = {key: _gap(row) for key, row in before.items()}
        after = {gap.key: _record(gap) for gap in gaps if is_change(gap, known.get(gap.key))}
        if not after:
            return False
        now = datetime.now(UTC)
        rows = pa.Table.from_pylist(
            [{**row, "updated_at": now} for row in after.values()], schema=self._spec.arrow_schema()
        )
        replaced = pa.array([before[key]["number"] for key in after if key in before], pa.int64())
        kept = stored.filter(pc.invert(pc.is_in(pa.array(range(stored.num_rows), pa.int64()), replaced)))
        rows = pa.concat_tables([kept.select(rows.column_names).cast(rows.schema), rows])
        replace_touched(table, tasks, closed_apart(rows, "missing_after", pc.is_valid(rows["closed_at"])))
        return True


def is_change(gap: TradeGap, stored: TradeGap | None) -> bool:
    """Return whether to write the gap: it is new, it changes an open gap, or it widens or reopens a closed one."""
    if stored is None or gap.open_because is OpenBecause.LOST_IN_KAFKA:
        return True
    if stored.open_because is OpenBecause.LOST_IN_KAFKA and gap.closed_at is not None:
        return False  # the producer closed it before it knew of the loss
    is_final = stored.closed_at is not None and gap.last_missing_id <= stored.last_missing_id
    return not is_final and stored != gap


def _near(times: Iterable[datetime]) -> BooleanExpression:
    """Return the condition for gaps within an hour of these times."""
    spans: list[tuple[datetime, datetime]] = []
    for time in sorted(times):
        if spans and (time - spans[-1][1] <= HOUR or len(spans) == MAX_SPANS):
            spans[-1] = spans[-1][0], time
        else:
            spans.append((time, time))
    return any_of(
        *(
            all_of(at_least("missing_after", first - HOUR), at_most("missing_after", last + HOUR))
            for first, last in spans
        )
    )


def read_gaps(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> list[TradeGap]:
    """Return the family's gaps that overlap [start, end]; the full ledger without bounds."""
    return [_gap(row) for row in _rows(settings, start, end).to_pylist()]


def read_missing(
    settings: Settings, bronze_offsets: Mapping[int, int], start: datetime | None = None, end: datetime | None = None
) -> list[TradeGap]:
    """Return the family's gaps of [start, end] whose trades are missing in Bronze: open, or closed at higher offsets.

    `bronze_offsets` are the offsets below which Bronze has every record, by partition of the family's topic. The cost
    is that of these gaps, not of the ledger.
    """
    import pyarrow.compute as pc

    # The lowest offset of all partitions, so that the files of gaps that are in Bronze are not read.
    partitions = max(bronze_offsets, default=-1) + 1
    lowest = min((bronze_offsets.get(number, 0) for number in range(partitions)), default=0)
    may_be_missing = any_of(
        is_null("closed_at"), above("kafka_offset", lowest), at_least("kafka_partition", partitions)
    )
    rows = _rows(settings, start, end, may_be_missing)
    missing = pc.is_null(rows["closed_at"])
    for partition in pc.unique(rows["kafka_partition"]).drop_null().to_pylist():
        of_partition = pc.equal(rows["kafka_partition"], partition)
        later = pc.and_kleene(of_partition, pc.greater(rows["kafka_offset"], bronze_offsets.get(partition, 0)))
        missing = pc.or_(missing, pc.fill_null(later, False))
    return [_gap(row) for row in rows.filter(missing).to_pylist()]


def _rows(settings: Settings, start: datetime | None, end: datetime | None, *conditions: BooleanExpression) -> pa.Table:
    bounds = [] if start is None else [at_least("missing_before", start)]
    bounds += [] if end is None else [at_most("missing_after", end)]
    return load_table(settings, settings.tables.gaps).scan(row_filter=all_of(*bounds, *conditions)).to_arrow()


def _record(gap: TradeGap) -> dict[str, Any]:
    return {
        "exchange": gap.exchange,
        "symbol": gap.symbol,
        "stream": gap.stream,
        "first_missing_id": gap.first_missing_id,
        "last_missing_id": gap.last_missing_id,
        "ids_missing": gap.ids_missing,
        "missing_after": moment_of(gap.after_us),
        "missing_before": moment_of(gap.before_us),
        "detected_at": gap.detected_at,
        "closed_at": gap.closed_at,
        "closed_by": None if gap.closed_by is None else gap.closed_by.value,
        "outcome": None if gap.outcome is None else gap.outcome.value,
        "kafka_partition": gap.kafka_partition,
        "kafka_offset": gap.kafka_offset,
        "updated_at": None,
        "ids_not_order_book": gap.ids_not_order_book,
        "open_because": None if gap.open_because is None else gap.open_because.value,
        "rejected_reason": None if gap.rejection is None else gap.rejection.reason,
        "rejected_contract_version": None if gap.rejection is None else gap.rejection.contract_version,
        "dead_letter_partition": None if gap.rejection is None else gap.rejection.partition,
        "dead_letter_offset": None if gap.rejection is None else gap.rejection.offset,
    }


def _gap(row: dict[str, Any]) -> TradeGap:
    return TradeGap(
        exchange=row["exchange"],
        symbol=row["symbol"],
        stream=row["stream"],
        first_missing_id=row["first_missing_id"],
        last_missing_id=row["last_missing_id"],
        ids_missing=row["ids_missing"],
        after_us=epoch_us(row["missing_after"]),
        before_us=epoch_us(row["missing_before"]),
        detected_at=row["detected_at"],
        closed_at=row["closed_at"],
        closed_by=None if row["closed_by"] is None else ClosedBy(row["closed_by"]),
        outcome=None if row["outcome"] is None else GapOutcome(row["outcome"]),
        kafka_partition=row["kafka_partition"],
        kafka_offset=row["kafka_offset"],
        # A lake of an earlier version lacks these columns until `cryptolake bootstrap` adds them.
        ids_not_order_book=row.get("ids_not_order_book") or 0,
        open_because=None if row.get("open_because") is None else OpenBecause(row["open_because"]),
        rejection=_rejection(row),
    )


def _rejection(row: dict[str, Any]) -> Rejection | None:
    version = row.get("rejected_contract_version")
    if version is None:
        return None
    return Rejection(row["rejected_reason"], version, row["dead_letter_partition"], row["dead_letter_offset"])
