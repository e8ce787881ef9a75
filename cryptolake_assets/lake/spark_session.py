"""Spark's side of the lake: the server's configuration and a client session."""

from __future__ import annotations

import atexit
import socket
from typing import TYPE_CHECKING, Any, cast

from cryptolake_assets.errors import SparkError
from cryptolake_assets.lake.stores import spark_catalog
from cryptolake_assets.model.table_spec import CATALOG
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEFAULT_PORT = 15002
"""Spark Connect's own."""
CONNECT_TIMEOUT_S = 5.0


def spark_conf(settings: Settings) -> dict[str, str]:
    """Configuration of the Spark Connect server: the Iceberg catalog and what exactness needs."""
    return {
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.defaultCatalog": CATALOG,
        # Another writer's commit must be seen by the next query.
        f"spark.sql.catalog.{CATALOG}.cache-enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.shuffle.partitions": str(settings.spark_shuffle_partitions),
        "spark.sql.streaming.metricsEnabled": "true",
        "spark.sql.adaptive.enabled": "true",
        # The fast query of a large day waits for what tells repeated trades.
        "spark.sql.broadcastTimeout": "3600s",
        "spark.sql.catalogImplementation": "in-memory",
    } | spark_catalog(settings)


def require_server(settings: Settings) -> None:
    """Raises `SparkError` at once when nobody listens; the Connect client itself would go on trying for 10 minutes."""
    host, _, port = settings.spark_connect_url.removeprefix("sc://").partition("/")[0].partition(":")
    try:
        socket.create_connection((host, int(port or DEFAULT_PORT)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise spark_unreachable(settings, error) from None


def _ask_nothing_at_exit(session: SparkSession) -> None:
    """Of each session PySpark asks the server at the process's end to forget its models of machine learning: there are
    none, and where the server has gone that takes ten seconds a session."""
    atexit.unregister(cast(Any, session).client._cleanup_ml_cache)


def _leave_error_log_out() -> None:
    """PySpark logs every error of a statement with the JVM's stack, as one line of JSON, before it raises it."""
    from pyspark.logger import PySparkLogger

    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).disabled = True


def limit_retries(session: SparkSession) -> None:
    """Lets a lost server be an error after some ten seconds instead of ten minutes."""
    from pyspark.sql.connect.client.retries import DefaultPolicy

    policy = DefaultPolicy(max_retries=8, max_backoff=3_000)
    # Only the Connect session has a client; the common type does not say so.
    cast(Any, session).client.set_retry_policies([policy])


def _leave_finalizer_out() -> None:
    """Takes away the finalizer of Connect's sessions, which closes a session that nobody holds any more.

    The garbage collector runs it wherever it happens to be at work, also in a thread that holds a lock of gRPC; closing
    then waits for workers that wait for that lock, for ever (seen with PySpark 4.1). A dropped session can be left: its
    channel goes with it, and the server forgets a session that is not used.
    """
    from pyspark.sql.connect.session import SparkSession

    if hasattr(SparkSession, "__del__"):
        del SparkSession.__del__


def connect(settings: Settings, session_id: str | None = None) -> SparkSession:
    """A Spark Connect session; with `session_id` (a UUID) the same session is found again by a later process.

    Raises `SparkError` when the server cannot be reached.
    """
    from pyspark.errors.exceptions.base import PySparkException
    from pyspark.sql import SparkSession

    require_server(settings)
    _leave_finalizer_out()
    _leave_error_log_out()
    url = settings.spark_connect_url
    if session_id is not None:
        separator = "" if url.endswith(("/", ";")) else (";" if "/;" in url else "/;")
        url = f"{url}{separator}user_id=cryptolake;session_id={session_id}"
    try:
        # Not getOrCreate: that would hand out a session of another server, if the process has one.
        session: SparkSession = SparkSession.builder.remote(url).create()
        limit_retries(session)
        _ask_nothing_at_exit(session)
        session.version  # noqa: B018  the first call reaches the server
    except (PySparkException, OSError) as error:
        raise spark_unreachable(settings, error) from error
    except Exception as error:
        if type(error).__module__.startswith("grpc"):
            raise spark_unreachable(settings, error) from error
        raise
    return session


def spark_unreachable(settings: Settings, error: Exception) -> SparkError:
    """The error for a Spark Connect server that does not answer."""
    cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return SparkError(
        f"spark: the Spark Connect server at {settings.spark_connect_url} cannot be reached ({cause}). "
        "Start it with `cryptolake up`, or correct SPARK_REMOTE."
    )
