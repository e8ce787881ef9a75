"""Dagster resources: the lake, the engine (Spark through dagster-pyspark), and the long-running stream. Thin adapters.

Methods import heavy packages, so that definitions load without them.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.errors import CryptolakeError, PartError
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import Engine as EngineName
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from cryptolake_assets.bronze.stream_health import StreamSignals
    from cryptolake_assets.transform.engines.engine import AggregationEngine


# For steps that cannot reach a service; a candidate that fails its checks is not retried.
RETRIES = dg.RetryPolicy(max_retries=2, delay=3, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


class LakeResource(dg.ConfigurableResource):
    """The lake described by the settings."""

    settings: dg.ResourceDependency[Settings]


class EngineResource(dg.ConfigurableResource):
    """The engine of Silver and Gold: DuckDB in the run's process, or Spark (dagster-pyspark) on the Spark Connect
    server."""

    settings: dg.ResourceDependency[Settings]

    def engine(self, name: EngineName = EngineName.AUTO) -> "AggregationEngine":
        """Return the engine of that name; for `auto`, that of the settings. Raises `SparkError` if Spark is down."""
        settings = self.settings
        if (settings.engine_in_use if name is EngineName.AUTO else name) is EngineName.SPARK:
            return self._spark(settings)

        from cryptolake_assets.transform.engines.duckdb_engine import DuckDBEngine

        return DuckDBEngine(settings)

    def _spark(self, settings: Settings) -> "AggregationEngine":
        from dagster_pyspark import LazyPySparkResource

        from cryptolake_assets.lake.spark_session import limit_retries, require_server, spark_unreachable
        from cryptolake_assets.transform.engines.spark_engine import SparkEngine

        require_server(settings)
        try:
            session = LazyPySparkResource(spark_config={"spark.remote": settings.spark_connect_url}).spark_session
            limit_retries(session)
            session.version  # noqa: B018  the first call reaches the server
        except Exception as error:
            raise spark_unreachable(settings, error) from error
        return SparkEngine(settings, session)


class StreamResource(dg.ConfigurableResource):
    """The long-running Bronze stream: its state, its lag, its restart, and its available-now mode."""

    settings: dg.ResourceDependency[Settings]
    catch_up_timeout_s: float = 300.0

    def is_running(self) -> bool:
        from cryptolake_assets.bronze.stream import is_running

        return is_running(self.settings)

    def status(self) -> dict[str, Any]:
        """Return the part's state, pid and log file, and the lag of all trades in Kafka records."""
        from cryptolake_assets.platform.status import status

        part = next(part for part in status(self.settings) if part.name == "bronze")
        lags = list(map(self.lag, self.trades()))
        lag = None if None in lags else sum(found for found in lags if found is not None)
        return {"state": part.state, "pid": part.pid, "log": part.log, "lag": lag}

    def trades(self) -> tuple[StreamType, ...]:
        """Return the stream of trades of each family with a tracked market."""
        return tuple(TRADES_OF_FAMILY[family] for family in self.settings.families)

    def signals(self) -> Mapping[Family, "StreamSignals"]:
        """Return the externally visible signals of the stream by market family, for `bronze.stream_health`."""
        from cryptolake_assets.bronze.offsets import report_age_s, trade_progress
        from cryptolake_assets.bronze.stream_health import StreamSignals
        from cryptolake_assets.platform.status import process_state
        from cryptolake_assets.platform.supervisor import Supervisor

        settings = self.settings
        process = Supervisor(settings).processes().get("bronze")
        state = process_state(process) if process is not None else None
        age_s = report_age_s(settings)
        return {
            family: StreamSignals(of_family.table, state, age_s, of_family.committed, of_family.lag)
            for family, of_family in zip(settings.families, trade_progress(settings), strict=True)
        }

    def restart(self) -> None:
        """Restart the stream and return when it serves again. Raises `PartError`."""
        from cryptolake_assets.platform.lifecycle import restart

        restart(self.settings, "bronze")

    def lag(self, stream_type: StreamType) -> int | None:
        """Return the number of a stream's Kafka records that are not in Bronze; None if the broker does not respond."""
        from cryptolake_assets.bronze.offsets import bronze_lag

        try:
            return bronze_lag(self.settings, stream_type)
        except CryptolakeError:
            return None

    def catch_up(self, *stream_types: StreamType) -> str:
        """Wait until Bronze has all records of the streams that are in Kafka now; ingest them if the stream does not
        run. Return the method: `stream` or `available-now`. Raises `PartError` after `catch_up_timeout_s`.
        """
        from cryptolake_assets.bronze.offsets import committed_offsets, lag
        from cryptolake_assets.bronze.stream import run_available_now
        from cryptolake_assets.kafka.topics import end_offsets

        settings = self.settings
        targets = [(stream_type, end_offsets(settings, stream_type.topic(settings))) for stream_type in stream_types]
        deadline = time.monotonic() + self.catch_up_timeout_s
        while any(lag(target, committed_offsets(settings, stream_type)) > 0 for stream_type, target in targets):
            if not self.is_running():
                run_available_now(settings)
                return "available-now"
            if time.monotonic() > deadline:
                raise PartError(
                    f"bronze: the stream runs but did not reach Kafka's end offsets within "
                    f"{self.catch_up_timeout_s:.0f} s. See `cryptolake status` and `cryptolake logs bronze`."
                )
            time.sleep(0.5)
        return "stream"


def resources_of(settings: Settings) -> dict[str, dg.ConfigurableResource[Any]]:
    """Return the resources of the graph, by the names that assets request."""
    return {
        "lake": LakeResource(settings=settings),
        "engine": EngineResource(settings=settings),
        "stream": StreamResource(settings=settings),
    }
