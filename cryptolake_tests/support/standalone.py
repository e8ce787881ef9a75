"""A Spark standalone cluster on loopback: a master and workers of one core, from pyspark's own jars.

Start a Spark Connect server with `SPARK_MASTER` set to the cluster's URL to use it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptolake_assets.errors import JavaNotFoundError
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.platform.spark_server import spark_home
from cryptolake_tests.support.servers import LOOPBACK, Server, free_port, running, start

WORKER_MEMORY: Final = "1536m"
"""Memory of one executor of Spark's default size: 1 GB heap and the JVM's overhead."""
EXECUTOR_MODULE: Final = "jdk.incubator.vector"
"""Spark starts executors with this module; a JVM without it (a trimmed runtime) does not start."""


@dataclass
class SparkCluster:
    """A running master, its URL (`spark://host:port`), and its workers."""

    url: str
    directory: Path
    workers: list[Server] = field(default_factory=list)

    def add_worker(self) -> Server:
        """Start one more worker with one core."""
        port, number = free_port(), len(self.workers) + 1
        arguments = ("--host", LOOPBACK, "--port", str(port), "--webui-port", str(free_port()))
        size = ("--cores", "1", "--memory", WORKER_MEMORY, "--work-dir", str(self.directory / f"work-{number}"))
        command = _spark_class("org.apache.spark.deploy.worker.Worker", *arguments, *size, self.url)
        worker = start(f"worker-{number}", command, port, self.directory, environment=_environment())
        self.workers.append(worker)
        return worker


@contextmanager
def spark_cluster(directory: Path, workers: int) -> Iterator[SparkCluster]:
    """Run a master and workers, with logs and scratch files in the directory, until the end of the block.

    Raise `JavaNotFoundError` if Java is not a full JDK, `PartError` if the master or a worker does not start.
    """
    require_full_jdk()
    port = free_port()
    arguments = ("--host", LOOPBACK, "--port", str(port), "--webui-port", str(free_port()))
    command = _spark_class("org.apache.spark.deploy.master.Master", *arguments)
    with running(start("master", command, port, directory, environment=_environment())):
        cluster = SparkCluster(f"spark://{LOOPBACK}:{port}", directory)
        try:
            for _ in range(workers):
                cluster.add_worker()
            yield cluster
        finally:
            for worker in cluster.workers:
                worker.stop()


def require_full_jdk() -> None:
    """Raise `JavaNotFoundError` if Java lacks the module that executors require."""
    java = find_java()
    modules = subprocess.run(
        [str(java.executable), "--list-modules"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    ).stdout
    if not any(line.partition("@")[0] == EXECUTOR_MODULE for line in modules.splitlines()):
        raise JavaNotFoundError(
            f"Java: a Spark cluster requires a full JDK, but {java.executable} ({java.origin}) lacks the module "
            f"{EXECUTOR_MODULE}. Install a JDK 17 or 21 and point JAVA_HOME at it."
        )


def _spark_class(name: str, *arguments: str) -> tuple[str, ...]:
    class_path = str(spark_home() / "jars" / "*")
    return (str(find_java().executable), "-Xmx512m", "-cp", class_path, name, *arguments)


def _environment() -> dict[str, str]:
    """Return the workers' environment; they start executors with the Java of JAVA_HOME."""
    java_home = find_java().executable.resolve().parent.parent
    return {
        "SPARK_HOME": str(spark_home()),
        "SPARK_SCALA_VERSION": "2.13",  # Spark's scripts derive it from jar names
        "JAVA_HOME": str(java_home),
        "SPARK_LOCAL_IP": LOOPBACK,
    }
