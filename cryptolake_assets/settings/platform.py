"""Settings of the local servers, Spark and Kafka, and of the Bronze stream that runs on them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cryptolake_assets.settings.ingest import named
from cryptolake_assets.settings.kafka import KafkaSettings

Port = Annotated[int, Field(ge=1, le=65535)]


class PlatformSettings(KafkaSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    spark_remote: str = named(
        "SPARK_REMOTE",
        "",
        "URL of the Spark Connect server, sc://host:port. Empty: a local server started by CryptoLake.",
    )
    spark_master: str = named("SPARK_MASTER", "local[*]", "Master URL for the local Spark Connect server.")
    spark_memory_mb: int = named(
        "CRYPTOLAKE_SPARK_MEMORY_MB", 2_048, "Heap size of the local Spark Connect server in MiB.", ge=512
    )
    spark_shuffle_partitions: int = named(
        "CRYPTOLAKE_SPARK_SHUFFLE_PARTITIONS", 4, "Spark tasks per aggregation; about two per core.", ge=1
    )
    bronze_trigger_s: float = named(
        "CRYPTOLAKE_BRONZE_TRIGGER_S",
        5.0,
        "Seconds between micro-batches of the Bronze stream; twice as many if it stores Futures and Spot.",
        gt=0,
        le=3_600,
    )
    bronze_max_offsets: int = named(
        "CRYPTOLAKE_BRONZE_MAX_OFFSETS", 1_000_000, "Maximum Kafka records per micro-batch of the Bronze stream.", ge=1
    )

    kafka_port: Port = named("CRYPTOLAKE_KAFKA_PORT", 9092, "Port of the local Kafka broker.")
    kafka_controller_port: Port = named("CRYPTOLAKE_KAFKA_CONTROLLER_PORT", 9093, "Port of the local Kafka controller.")
    spark_connect_host: str = named(
        "CRYPTOLAKE_SPARK_CONNECT_HOST",
        "127.0.0.1",
        "Listen address of the local Spark Connect server, which has no login.",
    )
    spark_connect_port: Port = named("CRYPTOLAKE_SPARK_CONNECT_PORT", 15002, "Port of the local Spark Connect server.")
    spark_ui_port: Port = named("CRYPTOLAKE_SPARK_UI_PORT", 4040, "Port of the local Spark UI.")
    code_server_port: int = named(
        "CRYPTOLAKE_CODE_SERVER_PORT",
        4000,
        "Port of the first code server if CRYPTOLAKE_CODE_SERVER_HOST is set; each further one uses the next port.",
        ge=1,
        le=65_000,
    )

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka_bootstrap_servers or f"127.0.0.1:{self.kafka_port}"

    @property
    def bootstrap_addresses(self) -> tuple[tuple[str, int], ...]:
        """The brokers as (host, port)."""
        parts = (server.rpartition(":") for server in self.bootstrap_servers.split(","))
        return tuple((host.strip("[]"), int(port)) for host, _, port in parts)

    @property
    def spark_connect_url(self) -> str:
        return self.spark_remote or f"sc://127.0.0.1:{self.spark_connect_port}"
