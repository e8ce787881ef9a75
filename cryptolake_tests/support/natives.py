"""Services of a cluster in addition to Spark as local processes: PostgreSQL, an S3 store, Iceberg's REST catalog.

Each listens on loopback only, stores its files in its own directory, and is ended by its process id.
`scripts/cluster_tools.sh` downloads missing programs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptolake_assets.platform import jars
from cryptolake_assets.platform.jvm import find_java
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.servers import LOOPBACK, free_port, running, start
from cryptolake_tests.support.standalone import SparkCluster

HERE: Final = Path(__file__).parent
CATALOG_JARS: Final = "catalog"
"""Jar group of Iceberg's REST catalog."""
CATALOG_SERVER: Final = HERE / "LoopbackCatalog.java"
POSTGRES_USER: Final = "postgres"
"""PostgreSQL does not run as root; Debian's package creates this user."""


class ToolMissingError(Exception):
    """A program required by the cluster is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(f"cluster: `{program}` is not installed. Run `make cluster-tools` to download it.")


# PostgreSQL.


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server with one user, who owns every database."""

    port: int
    password: str
    bin: Path
    user: str = "cryptolake"

    def uri(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def create(self, database: str) -> None:
        """Create an empty database."""
        command = [str(self.bin / "createdb"), "-h", LOOPBACK, "-p", str(self.port), "-U", self.user, database]
        subprocess.run(command, check=True, env={**os.environ, "PGPASSWORD": self.password})


def _postgres_bin() -> Path:
    """Return the directory of PostgreSQL's programs; on Debian it is not in PATH."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True), shutil.which("initdb")]
    for path in found:
        if path is not None and (Path(path).parent / "postgres").exists():
            return Path(path).resolve().parent
    raise ToolMissingError("initdb")


@contextmanager
def postgres(directory: Path, password: str) -> Iterator[Postgres]:
    """Start a new server that requires the password on every connection."""
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
    # On SIGTERM it waits until its clients disconnect.
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
    """Start an S3 gateway for a directory with these buckets."""
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
def rest_catalog(
    directory: Path, settings: Settings, database: Postgres, store: Store, token: str, name: str = "catalog"
) -> Iterator[str]:
    """Start Iceberg's REST catalog on a database and the store; yield its address. It requires the token."""
    groups = CATALOG_JARS, jars.STORE
    jars.ensure_jars(settings, jars=tuple(jar for jar in jars.locked_jars() if jar.group in groups))
    port = free_port()
    class_path = os.pathsep.join(str(jars.jar_dir(settings, group) / "*") for group in groups)
    properties = {
        "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "uri": f"jdbc:postgresql://{LOOPBACK}:{database.port}/{name}",
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


@dataclass(frozen=True)
class Cluster:
    """The running services, and settings that use them."""

    spark: SparkCluster
    database: Postgres
    settings: Settings
