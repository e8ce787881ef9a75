"""Settings of the producer: symbols file, symbol refresh, connection lifetime, and libraries."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic_settings import BaseSettings

from cryptolake_assets.settings.ingest import named


class ProducerIo(StrEnum):
    """Which libraries the producer reads the exchange and writes Kafka with."""

    AUTO = "auto"
    DEFAULT = "default"  # websockets and aiokafka
    FAST = "fast"  # picows and confluent-kafka, of the extra `fast`


class ProducerSettings(BaseSettings):
    """Part of `settings.Settings`, which says where values come from."""

    symbols_file: Path | None = named(
        "CRYPTOLAKE_SYMBOLS_FILE",
        None,
        "File with the symbols to follow, one or more a line, in place of CRYPTOLAKE_SYMBOLS. It is looked at while "
        "the producer runs: a change takes effect without a restart. Relative paths start at the project's root.",
    )
    symbols_refresh_s: float = named(
        "CRYPTOLAKE_SYMBOLS_REFRESH_S",
        3_600.0,
        "Seconds between two looks at what the exchange lists, where symbols are chosen by pattern or by volume.",
        ge=1,
    )
    connection_life_s: float = named(
        "CRYPTOLAKE_CONNECTION_LIFE_S",
        82_800.0,
        "Seconds after which a WebSocket connection is relieved by a new one beside it; the exchange ends it after 24 "
        "hours.",
        ge=1,
    )
    producer_io: ProducerIo = named(
        "CRYPTOLAKE_PRODUCER_IO",
        ProducerIo.AUTO,
        "Libraries of the producer: `default` (websockets, aiokafka), `fast` (picows, confluent-kafka; the extra "
        "`fast`), or `auto` (`fast` where it is installed).",
    )
