"""Settings of the producer: symbols file, symbol refresh, connection lifetime, and libraries."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic_settings import BaseSettings

from cryptolake_assets.settings.ingest import named


class ProducerIo(StrEnum):
    """WebSocket and Kafka libraries of the producer."""

    AUTO = "auto"
    DEFAULT = "default"  # websockets and aiokafka
    FAST = "fast"  # picows and confluent-kafka, of the extra `fast`


class ProducerSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    symbols_file: Path | None = named(
        "CRYPTOLAKE_SYMBOLS_FILE",
        None,
        "File of the tracked symbols, one or more per line, instead of CRYPTOLAKE_SYMBOLS. The producer polls it: a "
        "change takes effect without a restart. Relative paths start at the project's root.",
    )
    symbols_refresh_s: float = named(
        "CRYPTOLAKE_SYMBOLS_REFRESH_S",
        3_600.0,
        "Seconds between polls of the exchange's symbol list, for symbols selected by pattern or volume.",
        ge=1,
    )
    connection_life_s: float = named(
        "CRYPTOLAKE_CONNECTION_LIFE_S",
        82_800.0,
        "Lifetime of a WebSocket connection in seconds; then a new one replaces it. The exchange closes connections "
        "after 24 hours.",
        ge=1,
    )
    producer_io: ProducerIo = named(
        "CRYPTOLAKE_PRODUCER_IO",
        ProducerIo.AUTO,
        "Libraries of the producer: `default` (websockets, aiokafka), `fast` (picows, confluent-kafka; requires the "
        "extra `fast`), or `auto` (`fast` if installed).",
    )
