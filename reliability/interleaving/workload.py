"""What the exchange of one seed emits, and in which portions producer, stream and archive bring it into the lake.

Two symbols trade for 100 minutes: around midnight, when the archive has two days of the first symbol, or after it, when
the archive has a day of each. The stream lacks some ids (gaps), brings some late and some twice. Trades of a symbol
without archive may break a rule. The archive's first issue of a file may lack lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

from cryptolake_assets.binance.archive_files import ArchiveFile, sha256_of
from cryptolake_assets.ingest.archive_checks import DAY_MS
from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow, Evidence
from cryptolake_assets.model.windows import HOUR
from cryptolake_tests.support.archives import Aggregate, write_day
from cryptolake_tests.support.reference import Trade

EXCHANGE: Final = "binance_futures"
STREAM: Final = "aggTrade"
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")  # by Kafka partition
FIRST_DAY: Final = date(2024, 7, 18)
MIDNIGHT: Final = datetime(2024, 7, 18, tzinfo=UTC)
LASTS: Final = timedelta(minutes=100)
CLOSED_AFTER: Final = timedelta(minutes=75)  # the exchange's clock is this far past the last trade


@dataclass(frozen=True)
class Chunk:
    """A portion of frames: what the producer sends to Kafka, and then claims and records. Gaps precede claims."""

    records: Sequence[Trade]
    gaps: Sequence[TradeGap]
    claims: Sequence[CoverageRow]


@dataclass(frozen=True)
class Issue:
    """An issue of an archive file: its zip, checksum and the Bronze rows that it stands for (without times)."""

    file: ArchiveFile
    path: Path
    sha256: str
    lines: Sequence[Aggregate]


@dataclass
class Workload:
    """All of one seed. `truth` are the aggregates that the exchange emitted, by symbol."""

    begin: datetime
    files: Sequence[ArchiveFile]
    truth: dict[str, list[Aggregate]] = field(default_factory=dict)
    broken: set[tuple[str, int]] = field(default_factory=set)  # symbol and id of trades with quantity 0
    chunks: list[Chunk] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)  # in the order in which the archive publishes them

    @property
    def end(self) -> datetime:
        return self.begin + LASTS

    @property
    def clock(self) -> datetime:
        """The time of the exchange's clock."""
        return self.end + CLOSED_AFTER

    @property
    def hours(self) -> list[datetime]:
        first = self.begin.replace(minute=0)
        return [first, first + HOUR]

    def emitted(self) -> list[Trade]:
        """Return the exchange's trades as rows of Bronze."""
        return [self.row(symbol, line) for symbol, lines in self.truth.items() for line in lines]

    def row(self, symbol: str, line: Aggregate) -> Trade:
        # A bar counts single trades by the ids of the aggregate.
        return line.trade(symbol, kafka_partition=SYMBOLS.index(symbol))


def drawn(random: Random, directory: Path) -> Workload:
    """Draw the workload of a seed; archive files are written to the directory."""
    if random.random() < 0.3:
        begin = MIDNIGHT + timedelta(hours=23, minutes=10)
        files = [ArchiveFile(SYMBOLS[0], day) for day in (FIRST_DAY, FIRST_DAY + timedelta(days=1))]
    else:
        begin, files = MIDNIGHT + timedelta(minutes=10), [ArchiveFile(symbol, FIRST_DAY) for symbol in SYMBOLS]
    work = Workload(begin, files)
    for number, symbol in enumerate(SYMBOLS):
        work.truth[symbol] = _aggregates(
            random, begin, first_id=1_000 + 50_000 * number, number=random.randrange(30, 70)
        )
    for symbol, lines in work.truth.items():
        if symbol not in {file.symbol for file in files}:  # an archive file rejects such a line
            for place in random.sample(range(2, len(lines) - 2), random.randrange(3)):
                lines[place] = replace(lines[place], qty="0")
                work.broken.add((symbol, lines[place].agg_id))
    _stream(random, work)
    _archive(random, work, directory)
    return work


def _aggregates(random: Random, begin: datetime, first_id: int, number: int) -> list[Aggregate]:
    begin_ms = _ms(begin)
    times = sorted(random.sample(range(LASTS // timedelta(milliseconds=1)), number))
    found, next_trade = [], first_id * 10
    for place, time_ms in enumerate(times):
        trades = random.randrange(1, 4)
        found.append(
            Aggregate(
                first_id + place,
                f"{random.randrange(60_000, 60_100)}.{random.randrange(10)}",
                f"0.{random.randrange(1, 900):03d}",
                next_trade,
                next_trade + trades - 1,
                begin_ms + time_ms,
                random.random() < 0.5,
            )
        )
        next_trade += trades
    return found


def _stream(random: Random, work: Workload) -> None:
    """Cut the time into chunks; each symbol's gaps lie inside a chunk, and are repaired by a later chunk or never."""
    number = random.randrange(3, 6)
    begin_ms, end_ms = _ms(work.begin), _ms(work.end)
    bounds = sorted(random.sample(range(begin_ms + 60_000, end_ms - 60_000, 60_000), number - 1))
    windows = list(zip([begin_ms, *bounds], [*bounds, end_ms], strict=True))
    late: dict[int, list[tuple[str, list[Aggregate], TradeGap]]] = {}
    offsets = [0] * len(SYMBOLS)
    for place, (from_ms, to_ms) in enumerate(windows):
        records: list[Trade] = []
        gaps: list[TradeGap] = []

        def send(symbol: str, line: Aggregate, to: list[Trade] = records) -> None:
            partition = SYMBOLS.index(symbol)
            to.append(line.trade(symbol, kafka_partition=partition, kafka_offset=offsets[partition]))
            offsets[partition] += 1

        for symbol, missing, gap in late.get(place, ()):
            for line in missing:
                send(symbol, line)
            closed_at = gap.detected_at + timedelta(minutes=1)
            gaps.append(
                replace(
                    gap,
                    ids_missing=0,
                    closed_at=closed_at,
                    closed_by=ClosedBy.REST,
                    outcome=GapOutcome.REPAIRED,
                    kafka_partition=SYMBOLS.index(symbol),
                    kafka_offset=offsets[SYMBOLS.index(symbol)],
                )
            )
        for symbol, lines in work.truth.items():
            here = [line for line in lines if from_ms <= line.time_ms < to_ms]
            missing = _missing(random, here)
            for line in here:
                if line not in missing:
                    send(symbol, line)
                    if random.random() < 0.05:
                        send(symbol, line)
            if missing:
                gap = _gap(symbol, missing, here)
                gaps.append(gap)
                if random.random() < 0.6 and place + 1 < number:
                    late.setdefault(random.randrange(place + 1, number), []).append((symbol, missing, gap))
        claims = [
            CoverageRow(
                EXCHANGE, symbol, STREAM, from_ms, to_ms, partition, offsets[partition], "ws://stream", Evidence.IDS
            )
            for partition, symbol in enumerate(SYMBOLS)
        ]
        work.chunks.append(Chunk(records, gaps, claims))


def _missing(random: Random, here: Sequence[Aggregate]) -> list[Aggregate]:
    if len(here) < 6 or random.random() < 0.5:
        return []
    start, length = random.randrange(1, len(here) - 3), random.randrange(1, 3)
    return list(here[start : start + length])


def _gap(symbol: str, missing: Sequence[Aggregate], here: Sequence[Aggregate]) -> TradeGap:
    first, last = here.index(missing[0]), here.index(missing[-1])
    return TradeGap(
        EXCHANGE,
        symbol,
        STREAM,
        missing[0].agg_id,
        missing[-1].agg_id,
        len(missing),
        here[first - 1].time_ms * 1_000,
        here[last + 1].time_ms * 1_000,
        datetime.fromtimestamp(here[last + 1].time_ms / 1_000, UTC),
    )


def _archive(random: Random, work: Workload, directory: Path) -> None:
    """Write the files' issues, in the order of publication; the last issue of a file is complete."""
    by_file: list[list[Issue]] = []
    for number, file in enumerate(work.files):
        of_day = [line for line in work.truth[file.symbol] if 0 <= line.time_ms - file.start_ms < DAY_MS]
        issues = [of_day]
        if random.random() < 0.6:
            lacking = set(random.sample(range(len(of_day)), min(3, len(of_day) - 1)))
            issues.insert(0, [line for place, line in enumerate(of_day) if place not in lacking])
        by_file.append([])
        for issue, lines in enumerate(issues):
            folder = directory / f"{number}-{issue}"
            folder.mkdir(parents=True)
            path = write_day(folder, file, lines)
            by_file[-1].append(Issue(file, path, sha256_of(path), lines))
    while any(by_file):
        work.issues.append(random.choice([issues for issues in by_file if issues]).pop(0))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)
