"""Configure the Spark Connect server for the lake, and open client sessions."""

from __future__ import annotations

import atexit
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from cryptolake_assets.errors import SparkError
from cryptolake_assets.lake.stores import spark_catalog
from cryptolake_assets.model.table_spec import CATALOG
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEFAULT_PORT = 15002  # Spark Connect's default
CONNECT_TIMEOUT_S = 5.0
AWAIT_POLL_S = 0.25


def spark_conf(settings: Settings) -> dict[str, str]:
    """Return the configuration of the Spark Connect server: the Iceberg catalog and exact results."""
    return {
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.defaultCatalog": CATALOG,
        # The next query must see another writer's commit.
        f"spark.sql.catalog.{CATALOG}.cache-enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.shuffle.partitions": str(settings.spark_shuffle_partitions),
        "spark.sql.streaming.metricsEnabled": "true",
        "spark.sql.adaptive.enabled": "true",
        # The fast query of a large day needs more than the default 5 minutes to broadcast duplicate trades.
        "spark.sql.broadcastTimeout": "3600s",
        "spark.sql.catalogImplementation": "in-memory",
    } | spark_catalog(settings)


def require_server(settings: Settings) -> None:
    """Raise `SparkError` at once if nothing listens; the Connect client would retry for 10 minutes."""
    try:
        _touch_server(settings)
    except (OSError, ValueError) as error:
        raise spark_unreachable(settings, error) from None


def _touch_server(settings: Settings) -> None:
    host, _, port = settings.spark_connect_url.removeprefix("sc://").partition("/")[0].partition(":")
    socket.create_connection((host, int(port or DEFAULT_PORT)), timeout=CONNECT_TIMEOUT_S).close()


def require_living_server(settings: Settings) -> None:
    """Raise `SparkError` if the server's port refuses connections: its process has ended, and with it every session.

    A server that does not respond may still live.
    """
    try:
        _touch_server(settings)
    except ConnectionRefusedError as error:
        raise spark_unreachable(settings, error) from None
    except OSError:
        return


def await_server(settings: Settings, stopping: threading.Event, timeout_s: float) -> None:
    """Wait until the server accepts connections, `stopping` is set, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while not _is_listening(settings) and time.monotonic() < deadline and not stopping.wait(AWAIT_POLL_S):
        pass


def _is_listening(settings: Settings) -> bool:
    try:
        _touch_server(settings)
    except OSError:
        return False
    return True


def _remove_exit_hook(session: SparkSession) -> None:
    """Remove the session's exit hook, which deletes machine-learning models on the server.

    There are none, and if the server is gone the hook takes ten seconds per session.
    """
    atexit.unregister(cast(Any, session).client._cleanup_ml_cache)


def _disable_error_log() -> None:
    """Disable PySpark's log of every statement error, with the JVM stack as one JSON line; the error is raised too."""
    from pyspark.logger import PySparkLogger

    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).disabled = True


def limit_retries(session: SparkSession) -> None:
    """Raise an error after about ten seconds without a server, instead of ten minutes."""
    from pyspark.sql.connect.client.retries import DefaultPolicy

    policy = DefaultPolicy(max_retries=8, max_backoff=3_000)
    # Only the Connect session has a client; the common type does not declare it.
    cast(Any, session).client.set_retry_policies([policy])


def _remove_finalizer() -> None:
    """Remove the finalizer of Connect sessions, which closes an unreferenced session.

    The garbage collector may run it in a thread that holds a gRPC lock; closing then waits forever for workers that
    wait for that lock (seen with PySpark 4.1). A dropped session needs no closing: its channel is closed with it, and
    the server expires unused sessions.
    """
    from pyspark.sql.connect.session import SparkSession

    if hasattr(SparkSession, "__del__"):
        del SparkSession.__del__


def connect(settings: Settings, session_id: str | None = None) -> SparkSession:
    """Open a Spark Connect session; with `session_id` (a UUID), a later process finds the same session again.

    Raises `SparkError` if the server is unreachable.
    """
    from pyspark.errors.exceptions.base import PySparkException
    from pyspark.sql import SparkSession

    require_server(settings)
    _remove_finalizer()
    _disable_error_log()
    url = settings.spark_connect_url
    if session_id is not None:
        separator = "" if url.endswith(("/", ";")) else (";" if "/;" in url else "/;")
        url = f"{url}{separator}user_id=cryptolake;session_id={session_id}"
    try:
        # Not getOrCreate: it would return a session of another server if the process has one.
        session: SparkSession = SparkSession.builder.remote(url).create()
        limit_retries(session)
        _remove_exit_hook(session)
        session.version  # noqa: B018  the first call reaches the server
    except (PySparkException, OSError) as error:
        raise spark_unreachable(settings, error) from error
    except Exception as error:
        if type(error).__module__.startswith("grpc"):
            raise spark_unreachable(settings, error) from error
        raise
    return session


def spark_unreachable(settings: Settings, error: Exception) -> SparkError:
    """Return the error for a Spark Connect server that does not respond."""
    cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return SparkError(
        f"spark: the Spark Connect server at {settings.spark_connect_url} cannot be reached ({cause}). "
        "Start it with `cryptolake up`, or correct SPARK_REMOTE."
    )
