"""Read the Bronze stream's committed Kafka offsets from its checkpoints, and compute its lag."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import STREAM_TYPES, TRADES_OF_FAMILY
from cryptolake_assets.captures.tracked_symbols import streams_in_use
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.lake.stream_checkpoints import checkpoint, query_id, read_offsets
from cryptolake_assets.settings import Settings


def query_of(stream_type: StreamType) -> str:
    """Return the name of the query that appends the stream's events to Bronze."""
    return f"bronze_{stream_type.bronze.name}"


def rejected_query_of(stream_type: StreamType) -> str:
    """Return the name of the query that stores the rejected records of the stream's topic."""
    return f"{query_of(stream_type)}_rejected"


def _trades_of(settings: Settings) -> StreamType:
    return TRADES_OF_FAMILY[settings.venue.family]


def committed_offsets(settings: Settings, stream_type: StreamType | None = None) -> dict[int, int]:
    """Return the next offset per Kafka partition of the stream's topic: all records below it are in the table.

    The default stream is the trades of the settings' family. Empty before the first batch.
    """
    stream_type = stream_type or _trades_of(settings)
    offsets = read_offsets(settings, checkpoint(settings, query_of(stream_type)))
    return offsets.get(stream_type.topic(settings), {})


def query_ids(settings: Settings) -> frozenset[str]:
    """Return the ids of all Bronze queries, as in their commits (`spark.sql.streaming.queryId`).

    Empty before the first start.
    """
    ids = (
        query_id(settings, checkpoint(settings, query))
        for stream_type in STREAM_TYPES
        for query in (query_of(stream_type), rejected_query_of(stream_type))
    )
    return frozenset(found for found in ids if found is not None)


def report_path(settings: Settings) -> Path:
    """Return the path of the running stream's report, a JSON file."""
    return settings.run_dir / "bronze.json"


def read_report(settings: Settings) -> dict[str, Any] | None:
    """Return the last report of the stream: state, and per query batch, rows and rate. None if there is none."""
    try:
        return dict(json.loads(report_path(settings).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def report_age_s(settings: Settings) -> float | None:
    """Return the seconds since the stream's last report; None if there is none."""
    report = read_report(settings)
    try:
        written = datetime.fromisoformat(str(report["updated_at"])) if report else None
    except (KeyError, ValueError):
        return None
    return (datetime.now(UTC) - written).total_seconds() if written else None


def lag(end_offsets: dict[int, int], committed: dict[int, int]) -> int:
    """Return the number of Kafka records that are not in the table yet."""
    return sum(max(0, end - committed.get(number, 0)) for number, end in end_offsets.items())


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """The lag of Bronze in one partition of a topic; each offset is that of the next record."""

    topic: str
    partition: int
    end_offset: int
    bronze_offset: int

    @property
    def records(self) -> int:
        """Records in Kafka that are not in the table yet."""
        return max(0, self.end_offset - self.bronze_offset)


def bronze_lags(settings: Settings, stream_type: StreamType | None = None) -> list[PartitionLag]:
    """Return the lag of every partition of the stream's topic, in order; default: the trades of the settings' family.

    Raises `BrokerError` if the brokers cannot be reached.
    """
    from cryptolake_assets.kafka.topics import end_offsets

    stream_type = stream_type or _trades_of(settings)
    topic = stream_type.topic(settings)
    ends = end_offsets(settings, topic)
    committed = committed_offsets(settings, stream_type)
    return [PartitionLag(topic, number, end, committed.get(number, 0)) for number, end in sorted(ends.items())]


def lags_in_use(settings: Settings) -> list[PartitionLag]:
    """Return the lag of every partition of every stream in use."""
    return [lag for stream_type in streams_in_use(settings) for lag in bronze_lags(settings, stream_type)]


def bronze_lag(settings: Settings, stream_type: StreamType | None = None) -> int:
    """Return the number of records in Kafka that are not in Bronze yet. Raises `BrokerError` like `bronze_lags`."""
    return sum(lag.records for lag in bronze_lags(settings, stream_type))


@dataclass(frozen=True, slots=True)
class TradeProgress:
    """The progress of one family's trades."""

    table: str  # such as `spot_trades`
    committed: int  # records in Bronze
    lag: int | None  # in records; None if Kafka does not respond

    def __str__(self) -> str:
        lag = "unknown, Kafka does not respond" if self.lag is None else self.lag
        return f"{self.table}: {self.committed} records, lag {lag}"


def trade_progress(settings: Settings) -> tuple[TradeProgress, ...]:
    """Return the progress of the trades of each tracked family; its lag is None if the brokers do not respond."""
    found = []
    for stream_type in map(TRADES_OF_FAMILY.__getitem__, settings.families):
        committed = sum(committed_offsets(settings, stream_type).values())
        try:
            records = bronze_lag(settings, stream_type)
        except CryptolakeError:
            records = None
        found.append(TradeProgress(stream_type.bronze.name, committed, records))
    return tuple(found)
