"""The local Kafka broker: one KRaft node from the pinned jars."""

from __future__ import annotations

import base64
import subprocess
import uuid
from pathlib import Path

from cryptolake_assets.errors import PartError
from cryptolake_assets.platform import jars
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.platform.properties import properties_text
from cryptolake_assets.settings import Settings

HEAP_MB = 512
RETENTION_BYTES_PER_PARTITION = 4 * 1024**3
# A broker that starts on a full disk cannot rebuild the index of its metadata log: it deletes the log, and with it all
# topics (Kafka 4.1).
START_SPACE_BYTES = 256 * 1024**2

LOG4J2 = """\
status = error
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX}{UTC} %p %m (%c{1})%n
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = stdout
logger.kafka.name = kafka.server.KafkaRaftServer
logger.kafka.level = info
logger.broker.name = kafka.server.BrokerServer
logger.broker.level = info
"""


def data_dir(settings: Settings) -> Path:
    return settings.home / "kafka" / "data"


def config_dir(settings: Settings) -> Path:
    return settings.run_dir / "kafka"


def server_properties(settings: Settings) -> str:
    """Return the broker's configuration: all listeners on loopback, all replication factors 1."""
    host = "127.0.0.1"
    values = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{host}:{settings.kafka_controller_port}",
        "listeners": f"PLAINTEXT://{host}:{settings.kafka_port},CONTROLLER://{host}:{settings.kafka_controller_port}",
        "advertised.listeners": f"PLAINTEXT://{host}:{settings.kafka_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data_dir(settings),
        # A single node has no replicas.
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # Few partitions of the internal topics, because the broker loads all of them when it starts.
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.num.partitions": 4,
        "group.initial.rebalance.delay.ms": 0,
        "auto.create.topics.enable": "false",
        # Replayed trades have old timestamps: retention by time would delete them before Bronze reads them.
        "log.retention.ms": -1,
        "log.retention.bytes": RETENTION_BYTES_PER_PARTITION,
        "log.cleaner.dedupe.buffer.size": 16 * 1024**2,
        "num.network.threads": 2,
        "num.io.threads": 4,
    }
    return properties_text(values)


def files(settings: Settings) -> dict[Path, str]:
    """Return the broker's configuration files by path."""
    return {
        config_dir(settings) / "server.properties": server_properties(settings),
        config_dir(settings) / "log4j2.properties": LOG4J2,
    }


def command(settings: Settings) -> tuple[str, ...]:
    return (
        *_java(settings, f"-Xmx{HEAP_MB}m", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError"),
        "kafka.Kafka",
        str(config_dir(settings) / "server.properties"),
    )


def format_storage(settings: Settings) -> None:
    """Format the broker's storage once per home. Raises `PartError` with the tool's output."""
    if (data_dir(settings) / "meta.properties").exists():
        return
    data_dir(settings).mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        [
            *_java(settings, "-XX:TieredStopAtLevel=1"),
            *("kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", _cluster_id()),
            *("--config", str(config_dir(settings) / "server.properties")),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise PartError(
            f"kafka: storage in {data_dir(settings)} could not be formatted: {result.stdout.strip()[-600:]}. "
            "Check that CRYPTOLAKE_HOME is writable, then run `cryptolake up` again."
        )


def _java(settings: Settings, *options: str) -> tuple[str, ...]:
    return (
        str(find_java().executable),
        *options,
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={(config_dir(settings) / 'log4j2.properties').as_uri()}",
        "-cp",
        str(jars.jar_dir(settings, jars.KAFKA) / "*"),
    )


def _cluster_id() -> str:
    # Kafka's UUID format without `-`: a leading one would be parsed as an option.
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
