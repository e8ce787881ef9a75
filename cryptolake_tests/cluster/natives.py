"""The engines of a cluster as processes of this machine: PostgreSQL, an S3 store, Iceberg's REST catalog, Spark.

Each is started from its own program, listens on loopback alone, keeps its files in a directory of its own, and is ended
by its process id. `scripts/cluster_tools.sh` fetches what the machine lacks.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptolake_assets.platform import jars
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.platform.spark import spark_home
from cryptolake_assets.settings import Settings
from cryptolake_tests.waiting import wait_for

HERE: Final = Path(__file__).parent
CATALOG_SERVER: Final = HERE / "LoopbackCatalog.java"
LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 120
POSTGRES_USER: Final = "postgres"
"""PostgreSQL refuses to run as root; Debian's package has this user for it."""


class ToolMissingError(Exception):
    """A program that a part of the cluster runs on is not on this machine."""

    def __init__(self, program: str) -> None:
        super().__init__(f"cluster: `{program}` is not on this machine. Run `make cluster-tools`, which fetches it.")


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


@dataclass
class Native:
    """A process of the cluster."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3_000:]

    def kill(self) -> None:
        """Ends it and its children at once, as a machine that loses its power."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        """Ends it in order, or at once when it does not."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, self.stop_signal)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


def start(
    name: str,
    command: Sequence[str],
    port: int,
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Native:
    """Starts a program and waits until it listens; fails with the end of its log when it does not."""
    log = directory / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            user=user,
            start_new_session=True,
        )
    native = Native(name, process, log, stop_signal)
    try:
        wait_for(lambda: process.poll() is not None or answers(port), START_TIMEOUT_S)
        assert process.poll() is None, f"{name} ended:\n{native.tail()}"
    except BaseException:
        native.stop()
        raise
    return native


@contextmanager
def running(native: Native) -> Iterator[Native]:
    """Until the block ends."""
    try:
        yield native
    finally:
        native.stop()


# PostgreSQL.


@dataclass(frozen=True)
class Postgres:
    """A server with one user, who owns every database."""

    port: int
    password: str
    bin: Path
    user: str = "cryptolake"

    def uri(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def create(self, database: str) -> None:
        """Makes an empty database."""
        command = [str(self.bin / "createdb"), "-h", LOOPBACK, "-p", str(self.port), "-U", self.user, database]
        subprocess.run(command, check=True, env={**os.environ, "PGPASSWORD": self.password})


def _postgres_bin() -> Path:
    """Where PostgreSQL's programs are: Debian keeps the server's beside the PATH."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True), shutil.which("initdb")]
    for path in found:
        if path is not None and (Path(path).parent / "postgres").exists():
            return Path(path).resolve().parent
    raise ToolMissingError("initdb")


@contextmanager
def postgres(directory: Path, password: str) -> Iterator[Postgres]:
    """A new server; it asks for the password on every connection."""
    programs, port, user = _postgres_bin(), free_port(), POSTGRES_USER if os.geteuid() == 0 else None
    server = Postgres(port, password, programs)
    password_file = directory / "password"
    password_file.write_text(password)
    if user is not None:
        for path in (directory, password_file):
            shutil.chown(path, user)
    subprocess.run(
        [
            *(str(programs / "initdb"), "-D", str(directory / "data"), "-U", server.user, "--auth=scram-sha-256"),
            *(f"--pwfile={password_file}", "--no-sync", "--encoding=UTF8"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=directory,
        user=user,
    )
    command = (
        *(str(programs / "postgres"), "-D", str(directory / "data"), "-p", str(port), "-h", LOOPBACK),
        *("-k", str(directory), "-c", "fsync=off", "-c", "max_connections=200"),
    )
    # At SIGTERM it would wait for its clients to leave.
    with running(start("postgres", command, port, directory, user=user, stop_signal=signal.SIGINT)):
        yield server


# An S3 store.


@dataclass(frozen=True)
class Store:
    """An S3 store with one account."""

    port: int
    access_key: str
    secret_key: str

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


@contextmanager
def s3_store(directory: Path, buckets: Sequence[str], secret_key: str) -> Iterator[Store]:
    """A gateway over a directory, with these buckets."""
    program = os.environ.get("CRYPTOLAKE_VERSITYGW") or shutil.which("versitygw")
    if program is None:
        raise ToolMissingError("versitygw")
    data, port = directory / "data", free_port()
    for bucket in buckets:
        (data / bucket).mkdir(parents=True)
    store = Store(port, "cryptolake", secret_key)
    command = (program, "--port", f"{LOOPBACK}:{port}", "posix", "--sidecar", str(directory / "attributes"), str(data))
    (directory / "attributes").mkdir()
    keys = {"ROOT_ACCESS_KEY": store.access_key, "ROOT_SECRET_KEY": store.secret_key}
    with running(start("s3", command, port, directory, environment=keys)):
        yield store


# Iceberg's REST catalog.


@contextmanager
def rest_catalog(directory: Path, settings: Settings, database: Postgres, store: Store, token: str) -> Iterator[str]:
    """Iceberg's own server over tables in PostgreSQL and files in the store; its address. It asks for the token."""
    locked = tuple(jar for jar in jars.locked_jars() if jar.group == jars.CATALOG)
    jars.ensure_jars(settings, jars=locked)
    port = free_port()
    class_path = os.pathsep.join(
        str(jars.jar_dir(settings, group) / "*") for group in (jars.CATALOG, jars.STORE) if group
    )
    properties = {
        "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "uri": f"jdbc:{database.uri('catalog').replace(f'{database.user}:{database.password}@', '')}",
        "jdbc.user": database.user,
        "jdbc.password": database.password,
        "jdbc.schema-version": "V1",
        "warehouse": "s3://lake/warehouse",
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "s3.endpoint": store.endpoint,
        "s3.path-style-access": "true",
        "s3.access-key-id": store.access_key,
        "s3.secret-access-key": store.secret_key,
        "client.region": "us-east-1",
    }
    command = (
        *(str(find_java().executable), "-Xmx512m", "-cp", class_path, str(CATALOG_SERVER), str(port), token),
        *(f"{name}={value}" for name, value in properties.items()),
    )
    with running(start("rest-catalog", command, port, directory)):
        yield f"http://{LOOPBACK}:{port}"


# Spark.


@dataclass
class SparkCluster:
    """A standalone master and its workers."""

    url: str
    directory: Path
    workers: list[Native] = field(default_factory=list)

    def add_worker(self) -> Native:
        """One more worker, of one core."""
        port, number = free_port(), len(self.workers) + 1
        arguments = ("--host", LOOPBACK, "--port", str(port), "--webui-port", str(free_port()))
        size = ("--cores", "1", "--memory", "1536m", "--work-dir", str(self.directory / f"work-{number}"))
        command = _spark_class("org.apache.spark.deploy.worker.Worker", *arguments, *size, self.url)
        worker = start(f"worker-{number}", command, port, self.directory, environment=_spark_environment())
        self.workers.append(worker)
        return worker


def _spark_class(name: str, *arguments: str) -> tuple[str, ...]:
    class_path = str(spark_home() / "jars" / "*")
    return (str(find_java().executable), "-Xmx512m", "-cp", class_path, name, *arguments)


def _spark_environment() -> dict[str, str]:
    """Workers start executors with the Java of JAVA_HOME: one that has all modules."""
    java_home = find_java().executable.resolve().parent.parent
    return {
        "SPARK_HOME": str(spark_home()),
        "SPARK_SCALA_VERSION": "2.13",  # Spark's scripts find it in the names of its jars
        "JAVA_HOME": str(java_home),
        "SPARK_LOCAL_IP": LOOPBACK,
    }


@contextmanager
def spark_cluster(directory: Path, workers: int) -> Iterator[SparkCluster]:
    """A master with so many workers."""
    port = free_port()
    arguments = ("--host", LOOPBACK, "--port", str(port), "--webui-port", str(free_port()))
    command = _spark_class("org.apache.spark.deploy.master.Master", *arguments)
    with running(start("master", command, port, directory, environment=_spark_environment())):
        cluster = SparkCluster(f"spark://{LOOPBACK}:{port}", directory)
        try:
            for _ in range(workers):
                cluster.add_worker()
            yield cluster
        finally:
            for worker in cluster.workers:
                worker.stop()
