"""The Bronze stream: Spark Structured Streaming from each stream's Kafka topic to its Bronze table.

Rejected records go to the family's table, such as `bronze.futures_trades_rejected`. Iceberg's native sink records query
and batch in each commit, which makes the writes effectively exactly-once.

Run as `python -m cryptolake_assets.bronze.stream`, it keeps the queries running until SIGTERM; `run_available_now`
processes the records that Kafka holds now and returns. The process that runs the queries holds the checkpoint lock.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.bronze.checkpoint_recovery import recover_checkpoint
from cryptolake_assets.bronze.extra_queries import ExtraQueries
from cryptolake_assets.bronze.offsets import (
    committed_offsets,
    lag,
    query_of,
    rejected_query_of,
    report_path,
)
from cryptolake_assets.captures.tracked_symbols import streams_in_use
from cryptolake_assets.errors import CheckpointInUseError, CryptolakeError, SparkError
from cryptolake_assets.kafka.access import spark_options
from cryptolake_assets.kafka.kafka_records import (
    KAFKA_COLUMNS,
    VALUE,
    KafkaRecordFormat,
    matches,
    sound_rows,
    with_event,
)
from cryptolake_assets.kafka.topics import error_of_spark
from cryptolake_assets.lake.spark_session import (
    await_server,
    connect,
    require_living_server,
    spark_unreachable,
)
from cryptolake_assets.lake.stores import hadoop_location
from cryptolake_assets.lake.stream_checkpoints import checkpoint, checkpoint_lock
from cryptolake_assets.log import configure_logging
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import Settings, get_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery
    from pyspark.sql.streaming.readwriter import DataStreamWriter

log = structlog.get_logger(__name__)

POLL_S = 2.0
SERVER_WAIT_S = 30.0
REJECTED_TRIGGER_FACTOR = 4  # the rejected-records query triggers once per this many trade batches


def _kafka(spark: SparkSession, settings: Settings, topics: str, *, headers: bool = False) -> DataFrame:
    return (
        spark.readStream.format("kafka")
        .options(**spark_options(settings))
        .option("subscribe", topics)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", settings.bronze_max_offsets)
        .option("includeHeaders", str(headers).lower())
        .load()
    )


def _header(name: str) -> str:
    return f"CAST(get(filter(headers, h -> h.key = '{name}'), 0).value AS STRING)"


def _record_format(stream_type: StreamType) -> KafkaRecordFormat:
    return KafkaRecordFormat(stream_type.contract, stream_type.optional)


def events(spark: SparkSession, settings: Settings, stream_type: StreamType) -> DataFrame:
    """Return the events of the stream's topic as rows of its Bronze table."""
    return sound_rows(_kafka(spark, settings, stream_type.topic(settings)), _record_format(stream_type))


def rejected(spark: SparkSession, settings: Settings, stream_type: StreamType) -> DataFrame:
    """Return the rejected records of the stream's topic as rows of its family's table of rejected records.

    These are the records that do not match the stream's contract and, for the trades, all records of the family's
    dead-letter topic.
    """
    topic, record_format = stream_type.topic(settings), _record_format(stream_type)
    if not stream_type.is_trades:
        suspects, dead_letter = _kafka(spark, settings, topic, headers=True), "false"
    else:
        dead_letters = settings.of_family(stream_type.family).topic_rejected
        dead_letter = f"topic = '{dead_letters}'"
        suspects = _kafka(spark, settings, f"{topic},{dead_letters}", headers=True).where(
            f"{dead_letter} OR NOT coalesce({matches(VALUE, record_format.written)}, false)"
        )
    return (
        with_event(suspects, record_format)
        .where(f"{dead_letter} OR NOT {record_format.is_sound}")
        .selectExpr(*_rejected_columns())
    )


def _rejected_columns() -> list[str]:
    """Return the columns of a table of rejected records, from Kafka's columns with headers."""
    return [
        "value AS raw",
        f"coalesce({_header('reason')}, 'not_contract: not an event of the contract') AS reason",
        f"{_header('stream')} AS stream",
        f"coalesce(timestamp_micros(try_cast({_header('received_at_us')} AS BIGINT)), timestamp) AS ingest_ts",
        "topic AS kafka_topic",
        *KAFKA_COLUMNS,
    ]


def _writer(frame: DataFrame, settings: Settings, query: str) -> DataStreamWriter:
    return (
        frame.writeStream.format("iceberg")
        .outputMode("append")
        .queryName(query)
        .option("checkpointLocation", hadoop_location(checkpoint(settings, query)))
        .option("fanout-enabled", "true")
    )


def _stop_leftover_queries(spark: SparkSession) -> None:
    for query in spark.streams.active:
        # The queries of a killed client keep running in the server; this process holds the checkpoint lock now.
        log.info("leftover_query_stopped", query=query.name)
        query.stop()


def query_starters(
    spark: SparkSession, settings: Settings, stream_type: StreamType
) -> dict[str, Callable[..., StreamingQuery]]:
    """Return the functions that start the stream's two queries, by name: its events and its rejected records.

    Each query has its own checkpoint; a starter recovers it, and takes the arguments of Spark's `trigger`.
    """
    topic, dead_letters = stream_type.topic(settings), settings.of_family(stream_type.family).topic_rejected

    def starter(
        query: str, frame: Callable[..., DataFrame], table: TableSpec, topics: Sequence[str]
    ) -> Callable[..., StreamingQuery]:
        def start(**trigger: Any) -> StreamingQuery:
            recover_checkpoint(settings, query, stream_type, table, topics)
            writer = _writer(frame(spark, settings, stream_type), settings, query)
            return writer.trigger(**trigger).toTable(table.full_name)

        return start

    return {
        query: starter(query, frame, table, topics)
        for query, frame, table, topics in (
            (query_of(stream_type), events, stream_type.bronze, (topic,)),
            (
                rejected_query_of(stream_type),
                rejected,
                FAMILY_TABLES[stream_type.family].rejected,
                (topic, dead_letters) if stream_type.is_trades else (topic,),
            ),
        )
    }


def is_running(settings: Settings) -> bool:
    """Return whether a process holds the checkpoint lock."""
    try:
        with checkpoint_lock(settings):
            return False
    except CheckpointInUseError:
        return True


def run_available_now(settings: Settings) -> int:
    """Append all records that Kafka holds now to Bronze; return the number of records read from the trade topics."""
    with checkpoint_lock(settings):
        streams = streams_in_use(settings)
        trades = [one for one in streams if one.is_trades]
        before = [committed_offsets(settings, one) for one in trades]
        spark = _session(settings)
        _stop_leftover_queries(spark)
        starters = {query: start for one in streams for query, start in query_starters(spark, settings, one).items()}
        # Trades first: the rejected-records queries also read their topics, and would take half of the CPU.
        first = [query_of(one) for one in trades]
        for names in (first, [name for name in starters if name not in first]):
            for name, query in [(name, starters[name](availableNow=True)) for name in names]:
                if not _await(settings, query):
                    _await(settings, starters[name](availableNow=True))
        read = sum(lag(committed_offsets(settings, one), old) for one, old in zip(trades, before, strict=True))
        log.info("available_now_finished", records=read)
        return read


def _session(settings: Settings) -> SparkSession:
    """Return the stream's own Connect session: its id is derived from the home, so a new process finds its queries."""
    from pyspark.errors.exceptions.base import PySparkException

    session_id = str(uuid.uuid5(uuid.NAMESPACE_URL, settings.home.as_uri()))
    try:
        return connect(settings, session_id)
    except SparkError as error:
        # The server rejects the id of a closed session (INVALID_HANDLE.SESSION_CLOSED and others).
        cause = error.__cause__
        if isinstance(cause, PySparkException) and (cause.getCondition() or "").startswith("INVALID_HANDLE"):
            return connect(settings)
        raise


def _await(settings: Settings, query: StreamingQuery) -> bool:
    """Wait until the query ends; return False if it must be started again (see `_failed_after_batch`)."""
    from pyspark.errors import StreamingQueryException

    try:
        query.awaitTermination()
    except StreamingQueryException as error:
        if _failed_after_batch(error):
            return False
        raise _failure(settings, query, error) from error
    failure = query.exception()
    if failure is not None and not _failed_after_batch(failure):
        raise _failure(settings, query, failure)
    return failure is None


def _failed_after_batch(error: object) -> bool:
    """Return whether a query failed only in the report of its first batch, which is committed.

    Spark 4.1 does so if the query began with the unfinished batch of an earlier one (SPARK-55271): the report needs the
    newest offsets of Kafka, which such a batch does not read.
    """
    return 'the return value of "scala.Option.get()" is null' in str(error)


def _failure(settings: Settings, query: StreamingQuery, error: object) -> CryptolakeError:
    first_line = str(error).splitlines()[0][:500]
    return error_of_spark(settings, first_line) or SparkError(
        f"bronze: the query {query.name} failed: {first_line}. See `cryptolake logs spark`."
    )


class BronzeStream:
    """Keep the queries of all streams running; write their progress to `run_dir/bronze.json`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Run until `stop`.

        Raises `SparkError` if a trades query fails or the server is lost, `BrokerError` if Kafka is the cause.
        """
        with checkpoint_lock(self._settings):
            # A killed server takes some seconds to start. Waiting here is quicker than new starts of this process,
            # which the supervisor delays more with each.
            await_server(self._settings, self._stop, SERVER_WAIT_S)
            if self._stop.is_set():
                return
            spark = _session(self._settings)
            _stop_leftover_queries(spark)
            # A micro-batch costs CPU by itself, more than its records do below about 10,000 a second: the families
            # share the batches that one family has.
            trigger_s = self._settings.bronze_trigger_s * len(self._settings.families)
            streams = streams_in_use(self._settings)
            starters: dict[str, Callable[[], StreamingQuery]] = {}
            for stream_type in streams:
                if stream_type.is_trades:
                    factors = (1, REJECTED_TRIGGER_FACTOR)
                    named_starts = query_starters(spark, self._settings, stream_type).items()
                    for factor, (query, start) in zip(factors, named_starts, strict=True):
                        starters[query] = partial(start, processingTime=f"{factor * trigger_s} seconds")
            queries = {query: start() for query, start in starters.items()}
            # Triggered less often than the trades queries, which have CPU priority.
            interval = f"{self._settings.extra_streams_trigger_s} seconds"
            extra_types = [stream_type for stream_type in streams if not stream_type.is_trades]
            extra = ExtraQueries(
                {
                    query: partial(start, processingTime=interval)
                    for stream_type in extra_types
                    for query, start in query_starters(spark, self._settings, stream_type).items()
                }
            )
            log.info(
                "bronze_stream_started",
                queries=list(queries),
                extra_streams=[stream_type.name for stream_type in extra_types],
            )
            try:
                while not self._stop.wait(POLL_S):
                    require_living_server(self._settings)  # the client's calls would retry for ten seconds
                    extra.supervise()
                    self._restart_failed_reports(queries, starters)
                    self._report([*queries.values(), *extra.running])
                extra.stop()
                for running in queries.values():
                    running.stop()
                self._write_progress({"state": "stopped"})
                log.info("bronze_stream_stopped")
            except CryptolakeError:
                raise
            except Exception as error:
                if type(error).__module__.startswith(("grpc", "pyspark")):
                    raise spark_unreachable(self._settings, error) from error
                raise

    def _restart_failed_reports(
        self, queries: dict[str, StreamingQuery], starters: Mapping[str, Callable[[], StreamingQuery]]
    ) -> None:
        """Start the queries again that failed in the report of a committed batch; raise any other failure."""
        for name, query in queries.items():
            if query.isActive:
                continue
            error = query.exception()
            if error is None:
                raise SparkError(f"bronze: the query {name} ended. See `cryptolake logs spark`.")
            if not _failed_after_batch(error):
                raise _failure(self._settings, query, error)
            log.info("query_restarted", query=name, reason="its first batch was that of an earlier query")
            queries[name] = starters[name]()

    def _report(self, queries: list[StreamingQuery]) -> None:
        progress: dict[str, Any] = {"state": "running"}
        for query in queries:
            last = query.lastProgress
            if last is not None:
                progress[str(query.name)] = {
                    "batch": last.batchId,
                    "at": last.timestamp,
                    "input_rows": last.numInputRows,
                    "rows_per_second": last.processedRowsPerSecond,
                }
        self._write_progress(progress)

    def _write_progress(self, progress: dict[str, Any]) -> None:
        path = report_path(self._settings)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps({**progress, "updated_at": datetime.now(UTC).isoformat()}))
        partial.replace(path)


def main() -> int:
    """Entry point of the part `bronze`."""
    settings = get_settings()
    configure_logging(settings.log_level)
    stream = BronzeStream(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stream.stop())
    try:
        stream.run()
    except CryptolakeError as error:
        log.error("bronze_stream_failed", error=str(error))
        # The supervisor must not restart this process in a tight loop while the Spark server starts.
        time.sleep(1)
        return 1
    return 0


def end_process(code: int) -> NoReturn:
    """End this process now: at a regular exit, PySpark's threads retry their calls to a lost server for ten seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end_process(main())
