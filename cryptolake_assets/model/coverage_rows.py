"""Rows of `ops.stream_coverage`: intervals of exchange time without missing trades, and their evidence. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# The `kafka_partition` of an archive row whose trades are still being written. No topic has this partition, so the row
# covers no time yet; it only shows that the exchange clock is past its end.
LOADING = -1


class Evidence(StrEnum):
    """The evidence that no trade of a span is missing."""

    # The response to a request on the connection, which follows all frames that the exchange sent before.
    BARRIER = "barrier"
    IDS = "ids"  # consecutive trade ids, or sequence numbers of messages
    KLINES = "klines"  # the exchange's own trade count and volume of each minute


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """A covered span of (symbol, stream): `connected_from_ms` inclusive, `connected_to_ms` exclusive.

    Kafka has acknowledged every frame of the span at an offset below `kafka_offset` of `kafka_partition`. Without these
    two, every trade of the span is in Bronze from the archive. Times are exchange time, ms since 1970, UTC. Spans of a
    (exchange, symbol, stream) may overlap.
    """

    exchange: str
    symbol: str
    stream: str
    connected_from_ms: int
    connected_to_ms: int
    kafka_partition: int | None
    kafka_offset: int | None
    source: str
    evidence: Evidence | None = None  # None in rows of earlier releases
    first_id: int | None = None
    last_id: int | None = None  # in archive rows: the first and last of consecutive ids, both inclusive

    @property
    def of_archive(self) -> bool:
        """Return whether the row covers the archive, not the stream."""
        return self.kafka_partition is None or self.kafka_partition == LOADING
