"""Makes files of the public archive for tests: zips of aggregate trades, and their checksums."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

from cryptolake_assets.exchange.archive import ArchiveFile, sha256_of
from cryptolake_assets.exchange.archive_csv import HEADER
from cryptolake_tests.reference import Trade


@dataclass(frozen=True)
class Aggregate:
    """A line of the archive; the time is in ms since 1970."""

    agg_id: int
    price: str
    qty: str
    first_id: int
    last_id: int
    time_ms: int
    maker: bool

    def line(self, time_factor: int = 1) -> str:
        """With a `time_factor` of 1000 the time is in µs."""
        time = self.time_ms * time_factor
        return f"{self.agg_id},{self.price},{self.qty},{self.first_id},{self.last_id},{time},{str(self.maker).lower()}"

    def trade(self, symbol: str, **changes: object) -> Trade:
        """The same from the `aggTrade` stream, as a row of Bronze."""
        moment = datetime.fromtimestamp(self.time_ms / 1000, UTC)
        return {
            "symbol": symbol,
            "event_time": moment,
            "price": Decimal(self.price),
            "qty": Decimal(self.qty),
            "side": "sell" if self.maker else "buy",
            "trade_id": self.agg_id,
            "exchange": "binance_futures",
            "ingest_ts": moment,
            "first_trade_id": self.first_id,
            "last_trade_id": self.last_id,
            "trade_type": "MARKET",
            "stream": "aggTrade",
            "kafka_partition": 0,
            "kafka_offset": self.agg_id,
            "kafka_timestamp": moment,
            **changes,
        }


def aggregates(day: date, number: int, *, first_id: int = 1_000, step_ms: int = 7_001) -> list[Aggregate]:
    """So many from midnight on, one every `step_ms`; each stands for one to three trades."""
    start_ms = round(datetime.combine(day, time(), UTC).timestamp() * 1000)
    found: list[Aggregate] = []
    next_trade = first_id * 10
    for index in range(number):
        trades = index % 3 + 1
        found.append(
            Aggregate(
                first_id + index,
                f"{60_000 + index * 37 % 100}.{index % 10}",
                f"0.{index * 13 % 900 + 1:03d}",
                next_trade,
                next_trade + trades - 1,
                start_ms + index * step_ms,
                index % 2 == 0,
            )
        )
        next_trade += trades
    return found


def csv_text(lines: Iterable[str], *, header: bool = True) -> str:
    return "".join(f"{line}\n" for line in ([",".join(HEADER)] if header else []) + list(lines))


def write_zip(directory: Path, file: ArchiveFile, text: str, *, checksum: str | None = None) -> Path:
    """The zip with its CSV, and beside it a `.CHECKSUM` with that sha256, or the true one."""
    path = directory / file.name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(file.name.replace(".zip", ".csv"), text)
    (directory / f"{file.name}.CHECKSUM").write_text(f"{checksum or sha256_of(path)}  {file.name}\n")
    return path


def write_day(directory: Path, file: ArchiveFile, day: Sequence[Aggregate], *, header: bool = True) -> Path:
    return write_zip(directory, file, csv_text((item.line() for item in day), header=header))
