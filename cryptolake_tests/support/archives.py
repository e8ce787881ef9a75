"""Write files of the public archive for tests: zips of aggregate trades and of klines, and their checksums."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

from cryptolake_assets.binance.archive_csv import HEADER
from cryptolake_assets.binance.archive_files import ArchiveFile, sha256_of
from cryptolake_assets.captures.published_files import read_klines
from cryptolake_assets.model.exchange_records import KLINE_HEADER, Kline
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.reference import Trade


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
        """Return the CSV line. With a `time_factor` of 1000 the time is in µs."""
        time = self.time_ms * time_factor
        return f"{self.agg_id},{self.price},{self.qty},{self.first_id},{self.last_id},{time},{str(self.maker).lower()}"

    def trade(self, symbol: str, **changes: object) -> Trade:
        """Return the Bronze row of this trade as received from the `aggTrade` stream."""
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
    """Return `number` aggregates from midnight on, one every `step_ms`; each stands for one to three trades."""
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
    """Write the zip with its CSV and a `.CHECKSUM` file with this sha256 (default: the correct one)."""
    path = directory / file.name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(file.name.replace(".zip", ".csv"), text)
    (directory / f"{file.name}.CHECKSUM").write_text(f"{checksum or sha256_of(path)}  {file.name}\n")
    return path


def recorded_klines(symbol: str, day: date) -> list[Kline]:
    """Return the official klines of one UTC day that are shipped with the demo capture."""
    first_ms = ArchiveFile(symbol, day).start_ms
    found = read_klines(DEMO_CAPTURE_DIR, symbol, "1m")
    return [kline for kline in found if first_ms <= kline.open_time_ms < first_ms + 86_400_000]


def klines_without_trades(day: date, number: int, price: str = "60000.10") -> list[Kline]:
    """Return klines of the day's first minutes as the exchange reports minutes without trades."""
    first_ms = ArchiveFile("BTCUSDT", day).start_ms
    times = range(first_ms, first_ms + number * 60_000, 60_000)
    return [Kline(time, price, price, price, price, "0.000", time + 59_999, "0.00000", 0, "0", "0") for time in times]


def kline_line(kline: Kline, time_factor: int = 1) -> str:
    """Return a line of the archive. With a `time_factor` of 1000 times are in µs, the last one the minute's last µs."""
    values = kline.to_rest()
    values[0] *= time_factor
    values[6] = (values[6] + 1) * time_factor - 1
    return ",".join(str(value) for value in values)


def write_klines(directory: Path, file: ArchiveFile, klines: Sequence[Kline], *, header: bool = True) -> Path:
    """Write the zip of a day of klines, with times in ms, and its checksum."""
    lines = [",".join(KLINE_HEADER)] if header else []
    return write_zip(directory, file, "".join(f"{line}\n" for line in [*lines, *map(kline_line, klines)]))


def write_day(directory: Path, file: ArchiveFile, day: Sequence[Aggregate], *, header: bool = True) -> Path:
    return write_zip(directory, file, csv_text((item.line() for item in day), header=header))
