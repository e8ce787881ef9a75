"""A lake in memory: coverage, gap ledgers and Bronze, with the semantics of the product's tables.

Each write and each read happens at one instant. What takes time or fails is outside: `WriteFaults` for the producer's
writes, batches that the caller makes for the Bronze stream, and the steps of a run in `simulated_silver`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from cryptolake_assets.lake.bronze_files import BronzeFile
from cryptolake_assets.lake.coverage import CoverageExtent
from cryptolake_assets.lake.coverage_union import fold
from cryptolake_assets.lake.gap_ledger import TradeGap, is_change
from cryptolake_assets.model.coverage_rows import CoverageRow
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.windows import MINUTE_MS, MINUTE_US
from cryptolake_assets.producer.gap_tracker import LastTrade
from cryptolake_assets.quality.minute_bars import MARKET
from reliability.simulation.oracle import Oracle

_HOUR_US: Final = 60 * MINUTE_US
_decode = msgspec.json.Decoder(TradeEvent).decode

Key = tuple[str, str, str]  # exchange, symbol, stream
MinuteKey = tuple[str, str, str, int]  # exchange, symbol, stream, start (ms)
Identity = tuple[str, str, str, int]  # exchange, symbol, stream, trade id
Record = tuple[int, int, bytes]  # Kafka partition, offset, value


class WriteFailedError(Exception):
    """A simulated commit failed, or succeeded without telling its writer."""


@dataclass
class WriteFaults:
    """How many of the next writes fail before their commit, and how many of those that follow fail after it."""

    before: int = 0
    after: int = 0

    def before_commit(self) -> None:
        if self.before:
            self.before -= 1
            raise WriteFailedError("lake: the commit failed")

    def after_commit(self) -> None:
        if self.after:
            self.after -= 1
            raise WriteFailedError("lake: the connection broke during the commit")


class SimulatedCoverage:
    """`ops.stream_coverage`; a `CoverageSink`."""

    def __init__(self, grace_ms: int, oracle: Oracle) -> None:
        self._grace_ms = grace_ms
        self._oracle = oracle
        self.faults = WriteFaults()
        self.rows: dict[Key, list[CoverageRow]] = {}
        self.version = 0
        self._ends_ms: dict[str, int] = {}  # by exchange

    def write(self, claims: Sequence[CoverageRow]) -> None:
        claims = [row for row in claims if row.connected_from_ms < row.connected_to_ms]
        if not claims:
            return
        self.faults.before_commit()
        self._oracle.check_claims(claims)
        by_key: defaultdict[Key, list[CoverageRow]] = defaultdict(list)
        for row in claims:
            by_key[row.exchange, row.symbol, row.stream].append(row)
            self._ends_ms[row.exchange] = max(self._ends_ms.get(row.exchange, 0), row.connected_to_ms)
        is_changed = False
        for key, new in by_key.items():
            stored = self.rows.get(key, [])
            after = fold(stored, new, self._grace_ms)
            if after != stored:
                self.rows[key] = after
                is_changed = True
        self.version += is_changed
        self.faults.after_commit()

    def between(
        self, exchanges: Collection[str], start_ms: int | None = None, end_ms: int | None = None
    ) -> tuple[list[CoverageRow], CoverageExtent]:
        """Return the exchanges' rows that overlap [start, end), and the extent of all, like `read_coverage_of`."""
        rows = [
            row
            for key, stored in self.rows.items()
            if key[0] in exchanges
            for row in stored
            if (start_ms is None or row.connected_to_ms > start_ms)
            and (end_ms is None or row.connected_from_ms < end_ms)
        ]
        symbols = frozenset(key[:2] for key in self.rows if key[0] in exchanges)
        streamed_to_ms = max((end for name, end in self._ends_ms.items() if name in exchanges), default=None)
        return rows, CoverageExtent(symbols, streamed_to_ms, None)


class SimulatedGaps:
    """The gap ledger of a family."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.faults = WriteFaults()
        self.gaps: dict[tuple[str, str, str, int], TradeGap] = {}
        self.version = 0
        self._unsettled: dict[tuple[str, str, str, int], TradeGap] = {}  # open, or not in Bronze when read last

    def write(self, gaps: Sequence[TradeGap]) -> None:
        self.faults.before_commit()
        changed = {gap.key: gap for gap in gaps if is_change(gap, self.gaps.get(gap.key))}
        for gap in changed.values():
            stored = self.gaps.get(gap.key)
            # A write reads only gaps of about the same time: others would be stored twice.
            if stored is not None and all(abs(other.after_us - stored.after_us) > _HOUR_US for other in gaps):
                self._oracle.violations.append(f"gap ledger: two rows of {gap.key}")
            self._oracle.check_gap(gap)
        self.gaps |= changed
        self._unsettled |= changed
        self.version += bool(changed)
        self.faults.after_commit()

    def missing(
        self, bronze_offsets: Mapping[int, int], start_ms: int | None = None, end_ms: int | None = None
    ) -> list[TradeGap]:
        """Return the gaps of [start, end] whose trades are missing in Bronze, like `read_missing`."""
        found = {key: gap for key, gap in self._unsettled.items() if _is_missing(gap, bronze_offsets)}
        self._unsettled = found
        return [
            gap
            for gap in found.values()
            if (start_ms is None or gap.before_us >= start_ms * 1_000)
            and (end_ms is None or gap.after_us <= end_ms * 1_000)
        ]


def _is_missing(gap: TradeGap, bronze_offsets: Mapping[int, int]) -> bool:
    if gap.closed_at is None:
        return True
    if gap.kafka_partition is None or gap.kafka_offset is None:
        return False
    return gap.kafka_offset > bronze_offsets.get(gap.kafka_partition, 0)


@dataclass
class GapLedgerOfMarket:
    """A `GapSink`: the gaps of one market in its family's ledger."""

    ledger: SimulatedGaps
    exchange: str
    reads_fail: int = 0

    def write(self, gaps: Sequence[TradeGap]) -> None:
        if gaps:
            self.ledger.write(gaps)

    def open_gaps(self) -> list[TradeGap]:
        if self.reads_fail:
            self.reads_fail -= 1
            raise WriteFailedError("lake: the gap ledger cannot be read")
        return [gap for gap in self.ledger.gaps.values() if gap.exchange == self.exchange and gap.closed_at is None]


@dataclass(slots=True)
class StoredTrade:
    """One trade of Bronze: its copies agree in everything but the time of receipt."""

    event_time: int  # µs
    trade_id: int
    price: Decimal
    qty: Decimal
    is_buy: bool
    first_trade_id: int
    last_trade_id: int
    is_broken: bool  # breaks one of `MISSING_TRADE_RULES`


@dataclass(slots=True)
class StoredMinute:
    """The distinct trades of a minute, by id."""

    trades: dict[int, StoredTrade] = field(default_factory=dict)
    aggregate: dict[str, Any] | None = None  # of all trades; None: to be computed


class SimulatedBronze:
    """`bronze.*_trades` of a family, and the offsets of its stream."""

    def __init__(self) -> None:
        self.sequence = 0
        self.files: list[BronzeFile] = []
        self.minutes: dict[MinuteKey, StoredMinute] = {}
        self.minutes_of: dict[str, set[MinuteKey]] = {}  # by the path of a file
        self.by_hour: defaultdict[datetime, list[BronzeFile]] = defaultdict(list)
        self.times_of: dict[str, list[tuple[Identity, int]]] = {}  # of files whose trades may be out of range
        self._offsets: dict[int, int] = {}  # in the table
        self.committed: dict[int, int] = {}  # in the checkpoint: the stream reads on from here after a restart
        self._newest: dict[Key, LastTrade] = {}

    def append(self, records: Iterable[Record], *, is_committed: bool = True) -> int:
        """Append a micro-batch of consecutive records in one commit; return the number of new ones.

        The table keeps each record once, like the sink of a stream that repeats its last batch. `is_committed` is False
        if the stream is killed between the table's commit and that of its checkpoint.
        """
        by_hour: defaultdict[int, list[TradeEvent]] = defaultdict(list)
        new = 0
        for partition, offset, value in records:
            expected = self._offsets.get(partition, 0)
            if offset < expected:
                continue
            assert offset == expected, f"bronze: offset {offset} of partition {partition}, expected {expected}"
            self._offsets[partition] = offset + 1
            event = _decode(value)
            by_hour[event.event_time // _HOUR_US].append(event)
            new += 1
        if new:
            self.sequence += 1
            for hour, events in by_hour.items():
                self._add_file(hour, events)
        if is_committed:
            self.committed = dict(self._offsets)
        return new

    def _add_file(self, hour: int, events: Sequence[TradeEvent]) -> None:
        touched: set[MinuteKey] = set()
        for event in events:
            key = event.exchange, event.symbol, event.stream
            touched.add(minute := (*key, event.event_time // MINUTE_US * MINUTE_MS))
            if event.trade_type == MARKET:
                self._add_trade(self.minutes.setdefault(minute, StoredMinute()), event)
            newest = self._newest.get(key)
            if newest is None or event.trade_id > newest.trade_id:
                self._newest[key] = LastTrade(event.trade_id, event.event_time)
        times = [event.event_time for event in events]
        path = f"{self.sequence}-{hour}"
        file = BronzeFile(
            path=path,
            hour=moment(hour * 60 * MINUTE_MS),
            rows=len(events),
            sequence=self.sequence,
            earliest=moment_of_us(min(times)),
            latest=moment_of_us(max(times)),
            constants={},
        )
        self.files.append(file)
        self.by_hour[file.hour].append(file)
        self.minutes_of[path] = touched
        self.times_of[path] = [((e.exchange, e.symbol, e.stream, e.trade_id), e.event_time) for e in events]

    def _add_trade(self, minute: StoredMinute, event: TradeEvent) -> None:
        known = minute.trades.get(event.trade_id)
        if known is not None and not known.is_broken:
            return
        price, qty = Decimal(event.price), Decimal(event.qty)
        is_broken = price <= 0 or qty <= 0
        minute.trades[event.trade_id] = StoredTrade(
            event.event_time,
            event.trade_id,
            price,
            qty,
            event.side == "buy",
            event.first_trade_id,
            event.last_trade_id,
            is_broken,
        )
        minute.aggregate = None

    def added_files(self, after_sequence: int) -> list[BronzeFile]:
        start = bisect_right(self.files, after_sequence, key=lambda file: file.sequence)
        return self.files[start:]

    def newest_trades(self, exchange: str, stream: str, symbols: Collection[str]) -> dict[str, LastTrade]:
        """Return each symbol's trade with the highest id, like `lake.newest_trades`."""
        found = {symbol: self._newest.get((exchange, symbol, stream)) for symbol in symbols}
        return {symbol: last for symbol, last in found.items() if last is not None}

    def files_of(self, hours: Iterable[datetime], from_sequence: int) -> list[BronzeFile]:
        """Return the files of these hours with this sequence number or a higher one."""
        found: list[BronzeFile] = []
        for hour in hours:
            files = self.by_hour.get(hour, [])
            found += files[bisect_right(files, from_sequence - 1, key=lambda file: file.sequence) :]
        return found


class SimulatedLake:
    """The tables of all families; they share coverage."""

    def __init__(self, grace_ms: int, oracle: Oracle) -> None:
        self.grace_ms = grace_ms
        self.oracle = oracle
        self.coverage = SimulatedCoverage(grace_ms, oracle)
        self.gaps: dict[str, SimulatedGaps] = {}
        self.bronze: dict[str, SimulatedBronze] = {}

    def family(self, name: str) -> tuple[SimulatedBronze, SimulatedGaps]:
        """Return the tables of a family; create them at the first call."""
        if name not in self.bronze:
            self.bronze[name], self.gaps[name] = SimulatedBronze(), SimulatedGaps(self.oracle)
        return self.bronze[name], self.gaps[name]


def moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of_us(epoch_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=epoch_us)
