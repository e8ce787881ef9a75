"""Steps of part `ingest` between Kafka and Bronze: the product's stream, and a bare query on the same server.

A step with `spot` has half of the events, by symbol, on the topic of Spot, in addition to that of the futures.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import lakes
from benchmarks.bare.clock import Clock
from benchmarks.bare.produce import by_confluent
from benchmarks.events import Event, events
from benchmarks.feed import SYMBOLS
from benchmarks.runner import progress
from benchmarks.steps import main

if TYPE_CHECKING:
    import psutil

    from cryptolake_assets.settings import Settings

HEAP_MB = 4096
FILL_CHUNK = 250_000
WARM_UP_S = 10.0


def spark_up(home: str) -> bool:
    """Start the project's Spark Connect server; the broker is already running."""
    from cryptolake_assets.platform import lifecycle
    from cryptolake_assets.platform.parts import KAFKA, SPARK

    lifecycle.up(lakes.lake_settings(Path(home), spark_memory_mb=HEAP_MB), [KAFKA, SPARK])
    return True


def _settings(home: str, topic: str, *, spot: bool = False) -> Settings:
    markets = "usdm,spot" if spot else "usdm"
    topics = {"kafka_topic_futures": topic, "kafka_topic_spot": f"{topic}_spot"}
    return lakes.lake_settings(Path(home), markets=markets, spark_memory_mb=HEAP_MB, **topics)


def _topics(settings: Settings) -> list[str]:
    return [family.topic_trades for family in settings.each_family]


def _send(settings: Settings, prepared: list[Event]) -> None:
    """Send the events; each family has the events of one symbol if both are in use."""
    for number, topic in enumerate(topics := _topics(settings)):
        own = [event for event in prepared if len(topics) == 1 or event[1] == SYMBOLS[number].encode()]
        by_confluent(settings.bootstrap_servers, topic, own)


def fill(home: str, topic: str, rows: int, spot: bool = False) -> int:
    """Write `rows` events to the topics in the producer's format; return the sum of their end offsets."""
    from cryptolake_assets.kafka import topics as kafka

    settings = _settings(home, topic, spot=spot)
    kafka.ensure_topics(settings)
    for done in range(0, rows, FILL_CHUNK):
        _send(settings, list(events(min(FILL_CHUNK, rows - done))))
        progress(done / rows)
    return sum(sum(kafka.end_offsets(settings, name).values()) for name in _topics(settings))


def _empty(settings: Settings) -> None:
    """Empty the tables of trades and rejected records, and their checkpoints."""
    from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
    from cryptolake_assets.bronze.offsets import query_of, rejected_query_of
    from cryptolake_assets.lake.bootstrap import bootstrap
    from cryptolake_assets.lake.catalog import get_catalog
    from cryptolake_assets.lake.stream_checkpoints import checkpoint
    from cryptolake_assets.model.family_tables import FAMILY_TABLES

    catalog = get_catalog(settings)
    for family, tables in FAMILY_TABLES.items():
        for spec in (tables.trades, tables.rejected):
            location = catalog.load_table(spec.identifier).location().removeprefix("file://")
            catalog.drop_table(spec.identifier)
            shutil.rmtree(location)
        for query in (query_of(TRADES_OF_FAMILY[family]), rejected_query_of(TRADES_OF_FAMILY[family])):
            shutil.rmtree(checkpoint(settings, query).removeprefix("file://"), ignore_errors=True)
    bootstrap(settings)


def _records(settings: Settings) -> int:
    """Return the number of trades in Bronze."""
    from cryptolake_assets.lake.catalog import load_table

    snapshots = [load_table(family, family.tables.trades).current_snapshot() for family in settings.each_family]
    return sum(int(one.summary["total-records"] or 0) for one in snapshots if one and one.summary)


def _process(settings: Settings, part: str) -> psutil.Process:
    import psutil

    from cryptolake_assets.platform.supervisor import Supervisor

    return psutil.Process(Supervisor(settings).processes()[part].pid)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def stream(home: str, topic: str, rows: int, spot: bool = False) -> dict[str, Any]:
    """Run the product's stream (available-now) into empty tables until the last trade is committed.

    The queries for rejected records run after that; `with_rejected_s` is the time until they have finished, and
    `all_cpu_s` the CPU time of server and client until then.
    """
    from cryptolake_assets.bronze.stream import run_available_now
    from cryptolake_assets.lake.catalog import load_table
    from cryptolake_assets.platform.parts import SPARK

    settings = _settings(home, topic, spot=spot)
    _empty(settings)
    server = _process(settings, SPARK)
    clock, began, server_cpu_s = Clock(), time.time(), _cpu_s(server)
    run_available_now(settings)
    reading = clock.reading()
    server_cpu_s = _cpu_s(server) - server_cpu_s
    assert _records(settings) == rows
    snapshots = [load_table(family, family.tables.trades).current_snapshot() for family in settings.each_family]
    query_s = max(snapshot.timestamp_ms for snapshot in snapshots if snapshot) / 1000 - began
    return {
        **reading,
        "query_s": round(query_s, 3),
        "with_rejected_s": reading["query_s"],
        "rows_per_s": round(rows / query_s),
        "all_cpu_s": round(reading["cpu_s"] + server_cpu_s, 3),
    }


def steady(home: str, topic: str, per_s: int, seconds: int, spot: bool = False) -> dict[str, Any]:
    """Run the part `bronze` with `per_s` events a second for `seconds`, until Bronze has all of them.

    Returns the CPU time of server and part from the first event to the last commit.
    """
    from confluent_kafka import Producer

    from cryptolake_assets.bronze.offsets import lags_in_use
    from cryptolake_assets.kafka import topics as kafka
    from cryptolake_assets.platform import lifecycle
    from cryptolake_assets.platform.parts import BRONZE, KAFKA, SPARK

    settings = _settings(home, topic, spot=spot)
    kafka.ensure_topics(settings)
    _empty(settings)
    prepared = list(events(per_s * seconds))
    topics = dict(zip(SYMBOLS, _topics(settings) * len(SYMBOLS), strict=False))
    lifecycle.up(settings, [KAFKA, SPARK, BRONZE])
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "compression.type": "zstd", "linger.ms": 10})
    try:
        time.sleep(WARM_UP_S)
        processes = [_process(settings, part) for part in (SPARK, BRONZE)]
        before, began = [_cpu_s(process) for process in processes], time.monotonic()
        for number in range(seconds):
            for value, key, partition in prepared[number * per_s : (number + 1) * per_s]:
                producer.produce(topics[key.decode()], value, key, partition)
            producer.flush()
            time.sleep(max(0.0, began + number + 1 - time.monotonic()))
        while sum(lag.records for lag in lags_in_use(settings)):
            time.sleep(0.5)
        used = [_cpu_s(process) - cpu_s for process, cpu_s in zip(processes, before, strict=True)]
    finally:
        lifecycle.stop(settings, BRONZE)
    assert _records(settings) == per_s * seconds
    return {"spark_cpu_s": round(used[0], 2), "part_cpu_s": round(used[1], 2), "all_cpu_s": round(sum(used), 2)}


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


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (spark_up, fill, stream, steady, bare)}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
