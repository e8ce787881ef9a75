"""Spark in its own JVM, on 1e-8 integers or decimal(38,18): warm-up passes, then one measured pass."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.bare.clock import Clock, peak_mb, report
from cryptolake_assets.platform.jvm import SPARK_JVM_OPTIONS, find_java
from cryptolake_assets.platform.spark_server import spark_home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HEAP_MB = 6144
PRICE = "decimal(18,8)"
START_TIMEOUT_S = 120.0
# JIT compilation shortens the passes up to the third one; the long-running server of a lake is warm.
WARM_PASSES = 2


def main(data: str, out: str, kind: str) -> None:
    """Warm up and measure; `kind` is `int` or `dec`."""
    scratch = Path(tempfile.mkdtemp(prefix="bare-spark-"))
    try:
        with gateway(scratch) as pid:
            measure(psutil.Process(pid), session(scratch), data, out, kind)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def measure(jvm: psutil.Process, spark: SparkSession, data: str, out: str, kind: str) -> None:
    warming_s = []
    for _ in range(WARM_PASSES):
        started = time.perf_counter()
        bars(spark, data, out, kind)
        warming_s.append(round(time.perf_counter() - started, 3))
    before = jvm.cpu_times()
    clock = Clock()
    bars(spark, data, out, kind)
    after = jvm.cpu_times()
    report(
        f"Spark, local[{os.cpu_count()}], {kind}",
        clock,
        jvm_cpu_s=round(after.user + after.system - before.user - before.system, 2),
        jvm_rss_mb=peak_mb(jvm.pid),
        jvm_heap_mb=HEAP_MB,
        warming_s=warming_s,
    )
    spark.stop()


@contextmanager
def gateway(scratch: Path) -> Iterator[int]:
    """Start the JVM and yield its pid; pyspark finds it by environment variables.

    pyspark's own launcher needs a Java module that the trimmed runtime of the project's setup lacks.
    """
    connection_info = scratch / "gateway"
    java = subprocess.Popen(
        [
            str(find_java().executable),
            f"-Xmx{HEAP_MB}m",
            *SPARK_JVM_OPTIONS,
            f"-Djava.io.tmpdir={scratch}",
            *("-cp", str(spark_home() / "jars" / "*")),
            *("org.apache.spark.deploy.SparkSubmit", "pyspark-shell"),
        ],
        env={**os.environ, "_PYSPARK_DRIVER_CONN_INFO_PATH": str(connection_info), "SPARK_LOCAL_IP": "127.0.0.1"},
        # The gateway exits when its standard input closes.
        stdin=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not connection_info.exists():
            if java.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the JVM of the bare Spark script did not start (exit code {java.poll()})")
            time.sleep(0.1)
        port, length = struct.unpack("!ii", connection_info.read_bytes()[:8])
        os.environ["PYSPARK_GATEWAY_PORT"] = str(port)
        os.environ["PYSPARK_GATEWAY_SECRET"] = connection_info.read_bytes()[8 : 8 + length].decode()
        yield java.pid
    finally:
        java.terminate()
        java.wait(30)


def session(scratch: Path) -> SparkSession:
    from pyspark.sql import SparkSession

    spark: SparkSession = (
        SparkSession.builder.master(f"local[{os.cpu_count()}]")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.ansi.enabled", "true")
        .config("spark.local.dir", str(scratch))
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def bars(spark: SparkSession, data: str, out: str, kind: str) -> None:
    """Read, deduplicate, aggregate and write one sorted file."""
    from pyspark.sql import functions as f

    exact = PRICE if kind == "dec" else "decimal(19,0)"
    trades = (
        spark.read.parquet(f"{data}/{kind}")
        .dropDuplicates(["symbol", "trade_id"])
        .withColumn("minute", f.expr("event_time div 60000 * 60000"))
        .withColumn("k", f.expr("(event_time % 60000) * 70368744177664L + trade_id"))
    )
    if kind == "dec":
        trades = trades.withColumn("price", f.col("price").cast(exact)).withColumn("qty", f.col("qty").cast(exact))
    price, qty = f.col("price").cast(exact), f.col("qty").cast(exact)
    (
        trades.groupBy("symbol", "minute")
        .agg(
            f.min_by("price", "k").alias("o"),
            f.max("price").alias("h"),
            f.min("price").alias("l"),
            f.max_by("price", "k").alias("c"),
            f.sum("qty").alias("volume"),
            f.sum(price * qty).alias("qvol"),
            f.count("*").alias("trades"),
            f.sum(f.when(f.col("is_buyer_maker"), f.lit(0).cast(exact)).otherwise(qty)).alias("taker_buy"),
        )
        .withColumn("vwap", f.col("qvol").cast("double") / f.col("volume").cast("double"))
        .withColumn("qvol", f.col("qvol").cast("string"))
        .coalesce(1)
        .sortWithinPartitions("symbol", "minute")
        .write.mode("overwrite")
        .parquet(out)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
