"""The local Spark Connect server, started from pyspark's jars without Spark's shell scripts."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from cryptolake_assets.lake.spark_session import spark_conf
from cryptolake_assets.platform import jars
from cryptolake_assets.platform.jvm import SPARK_JVM_OPTIONS, find_java
from cryptolake_assets.platform.properties import properties_text
from cryptolake_assets.settings import Settings

SMALL_HEAP_MB = 2_048
LOG4J2 = """\
status = error
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX}{UTC} %p %m (%c{1})%n%ex
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = stdout
logger.connect.name = org.apache.spark.sql.connect.service.SparkConnectServer
logger.connect.level = info
# Logs a warning per batch that it does not override the consumer group.
logger.kafkaconf.name = org.apache.spark.kafka010.KafkaConfigUpdater
logger.kafkaconf.level = error
"""


def work_dir(settings: Settings) -> Path:
    """Return the server's scratch directory; it is not cleaned while the server runs."""
    return settings.home / "spark"


def config_dir(settings: Settings) -> Path:
    return settings.run_dir / "spark"


def server_conf(settings: Settings) -> dict[str, str]:
    """Return the server's configuration: the lake's, with addresses, ports and directories."""
    conf = {
        **spark_conf(settings),
        "spark.master": settings.spark_master,
        "spark.app.name": "cryptolake",
        "spark.connect.grpc.binding.address": settings.spark_connect_host,
        "spark.connect.grpc.binding.port": str(settings.spark_connect_port),
        "spark.ui.port": str(settings.spark_ui_port),
        # Fail if the port is in use; by default Spark takes the next free one.
        "spark.port.maxRetries": "0",
        "spark.sql.warehouse.dir": (work_dir(settings) / "warehouse").as_uri(),
    }
    if settings.spark_master.startswith("local"):
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    else:
        conf["spark.jars"] = ",".join(
            str(path) for directory in _jar_dirs(settings) for path in sorted(directory.glob("*.jar"))
        )
    return conf


def files(settings: Settings) -> dict[Path, str]:
    """Return the server's configuration files by path."""
    return {
        config_dir(settings) / "spark.properties": properties_text(server_conf(settings)),
        config_dir(settings) / "log4j2.properties": LOG4J2,
    }


def command(settings: Settings) -> tuple[str, ...]:
    scratch = work_dir(settings) / "tmp"
    return (
        str(find_java().executable),
        f"-Xmx{settings.spark_memory_mb}m",
        *(["-XX:+UseSerialGC"] if _is_small(settings) else []),
        "-XX:+ExitOnOutOfMemoryError",
        *SPARK_JVM_OPTIONS,
        "-Djava.awt.headless=true",
        f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j2.configurationFile={(config_dir(settings) / 'log4j2.properties').as_uri()}",
        "-cp",
        os.pathsep.join(str(directory / "*") for directory in (spark_home() / "jars", *_jar_dirs(settings))),
        "org.apache.spark.deploy.SparkSubmit",
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
        *("--properties-file", str(config_dir(settings) / "spark.properties")),
        "spark-internal",
    )


def _is_small(settings: Settings) -> bool:
    """Return whether one thread should collect the garbage: Java's default takes more memory and processor time for it,
    and pays only with a large heap.
    """
    return settings.spark_master.startswith("local") and settings.spark_memory_mb <= SMALL_HEAP_MB


def _jar_dirs(settings: Settings) -> list[Path]:
    return [jars.jar_dir(settings, group) for group in jars.spark_groups(settings)]


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables of the server's process."""
    return {
        "SPARK_HOME": str(spark_home()),
        "SPARK_CONF_DIR": str(config_dir(settings)),
        "SPARK_LOCAL_DIRS": str(work_dir(settings) / "local"),
        "PYSPARK_PYTHON": sys.executable,
        **({"SPARK_LOCAL_IP": "127.0.0.1"} if settings.spark_master.startswith("local") else {}),
    }


def prepare(settings: Settings) -> None:
    for name in ("local", "tmp", "warehouse"):
        (work_dir(settings) / name).mkdir(parents=True, exist_ok=True)


def spark_home() -> Path:
    """Return pyspark's directory, without importing pyspark."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pyspark")
    return Path(spec.origin).parent
