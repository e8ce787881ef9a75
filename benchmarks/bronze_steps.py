"""Steps of part `ingest` between Kafka and Bronze: the product's stream, and a bare query on the same server."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import lakes
from benchmarks.bare.clock import Clock
from benchmarks.bare.produce import by_confluent
from benchmarks.events import events
from benchmarks.runner import progress
from benchmarks.steps import main

HEAP_MB = 4096
FILL_CHUNK = 250_000


def spark_up(home: str) -> bool:
    """Start the project's Spark Connect server; the broker is already running."""
    from cryptolake_assets.platform import lifecycle
    from cryptolake_assets.platform.parts import KAFKA, SPARK

    settings = lakes.lake_settings(Path(home)).model_copy(update={"spark_memory_mb": HEAP_MB})
    lifecycle.up(settings, [KAFKA, SPARK])
    return True


def fill(home: str, topic: str, rows: int) -> int:
    """Write `rows` events to the topic in the producer's format; return the sum of its end offsets."""
    from cryptolake_assets.kafka import topics as kafka

    settings = lakes.lake_settings(Path(home), kafka_topic_futures=topic)
    kafka.ensure_topics(settings)
    for done in range(0, rows, FILL_CHUNK):
        by_confluent(settings.bootstrap_servers, topic, list(events(min(FILL_CHUNK, rows - done))))
        progress(done / rows)
    return sum(kafka.end_offsets(settings, topic).values())


def stream(home: str, topic: str, rows: int) -> dict[str, Any]:
    """Run the product's stream (available-now) into empty tables until the last trade is committed.

    The query for rejected records runs after that; `with_rejected_s` is the time until it has finished.
    """
    from cryptolake_assets.binance.stream_types import TRADES
    from cryptolake_assets.bronze.offsets import checkpoint, query_of, rejected_query_of
    from cryptolake_assets.bronze.stream import run_available_now
    from cryptolake_assets.lake.bootstrap import bootstrap
    from cryptolake_assets.lake.catalog import get_catalog
    from cryptolake_assets.model.family_tables import FUTURES

    settings = lakes.lake_settings(Path(home), kafka_topic_futures=topic)
    catalog = get_catalog(settings)
    for spec in (FUTURES.trades, FUTURES.rejected):
        location = catalog.load_table(spec.identifier).location().removeprefix("file://")
        catalog.drop_table(spec.identifier)
        shutil.rmtree(location)
    for query in (query_of(TRADES), rejected_query_of(TRADES)):
        shutil.rmtree(checkpoint(settings, query).removeprefix("file://"), ignore_errors=True)
    bootstrap(settings)
    clock, began = Clock(), time.time()
    run_available_now(settings)
    reading = clock.reading()
    snapshot = lakes.bronze(settings).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert int(snapshot.summary["total-records"] or 0) == rows, snapshot.summary
    query_s = snapshot.timestamp_ms / 1000 - began
    return {
        **reading,
        "query_s": round(query_s, 3),
        "with_rejected_s": reading["query_s"],
        "rows_per_s": round(rows / query_s),
    }


def bare(home: str, topic: str, rows: int, out: str) -> dict[str, Any]:
    """Run a plain streaming query: parse JSON with `from_json` into typed columns, write Parquet files."""
    from cryptolake_assets.lake.spark_session import connect

    settings = lakes.lake_settings(Path(home), kafka_topic_futures=topic)
    shutil.rmtree(out, ignore_errors=True)
    spark = connect(settings)
    fields = (
        "symbol string, event_time bigint, price string, qty string, side string, trade_id bigint, exchange string, "
        "ingest_ts bigint, first_trade_id bigint, last_trade_id bigint, trade_type string, stream string"
    )
    clock = Clock()
    query = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.bootstrap_servers)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", settings.bronze_max_offsets)
        .load()
        .selectExpr(f"from_json(CAST(value AS STRING), '{fields}') AS event", "partition", "offset", "timestamp")
        .selectExpr(
            "event.symbol AS symbol",
            "timestamp_micros(event.event_time) AS event_time",
            "CAST(event.price AS decimal(18,8)) AS price",
            "CAST(event.qty AS decimal(18,8)) AS qty",
            "event.side AS side",
            "event.trade_id AS trade_id",
            "event.exchange AS exchange",
            "timestamp_micros(event.ingest_ts) AS ingest_ts",
            "event.first_trade_id AS first_trade_id",
            "event.last_trade_id AS last_trade_id",
            "event.trade_type AS trade_type",
            "event.stream AS stream",
            "partition AS kafka_partition",
            "offset AS kafka_offset",
            "timestamp AS kafka_timestamp",
        )
        .writeStream.format("parquet")
        .option("path", f"{out}/data")
        .option("checkpointLocation", f"{out}/checkpoint")
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    reading = clock.reading()
    failure = query.exception()
    assert failure is None, failure
    written = spark.read.parquet(f"{out}/data").count()
    spark.stop()
    assert written == rows, (written, rows)
    return {**reading, "rows_per_s": round(rows / reading["query_s"])}


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (spark_up, fill, stream, bare)}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
