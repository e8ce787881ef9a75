"""Steps of part `ingest`, each in a separate process: generate, serve and load a day of the archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import lakes
from benchmarks.bare.clock import Clock
from benchmarks.steps import main

DAY = date(2026, 1, 1)
DAY_MS = 1_767_225_600_000
SYMBOL = "BTCUSDT"
SEED = 11
START_TIMEOUT_S = 60


def make_archive(directory: str, rows: int) -> dict[str, Any]:
    """Write the zip of a day with `rows` aggregates into a copy of the shipped capture; return its name and sizes."""
    import pyarrow as pa
    from pyarrow import csv

    from cryptolake_assets.binance.archive_csv import HEADER
    from cryptolake_assets.binance.archive_files import ArchiveFile
    from cryptolake_assets.settings import DEMO_CAPTURE_DIR

    served = Path(directory) / "served"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(DEMO_CAPTURE_DIR, served)
    rng = np.random.default_rng(SEED)
    trades = rng.geometric(0.45, rows)
    last = np.cumsum(trades) + 5_000_000_000
    price = np.round(600_000 * np.exp(np.cumsum(rng.normal(0, 2e-6, rows)))).astype(np.int64)
    qty = np.maximum(1, np.round(rng.lognormal(0, 1.5, rows) * 50)).astype(np.int64)
    columns = [
        pa.array(np.arange(rows) + 2_000_000_000),
        _decimal_text(price, 1),
        _decimal_text(qty, 3),
        pa.array(last - trades + 1),
        pa.array(last),
        pa.array(np.sort(rng.integers(0, 86_400_000, rows)) + DAY_MS),
        pa.array(rng.random(rows) < 0.5).cast(pa.string()),
    ]
    file = ArchiveFile(SYMBOL, DAY)
    text = Path(directory) / "day.csv"
    with text.open("wb") as out:
        out.write((",".join(HEADER) + "\n").encode())
        options = csv.WriteOptions(include_header=False, quoting_style="none")
        csv.write_csv(pa.table(columns, names=list(HEADER)), out, options)
    with zipfile.ZipFile(served / file.name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(text, file.name.replace(".zip", ".csv"))
    size = text.stat().st_size
    text.unlink()
    return {
        "name": file.name,
        "rows": rows,
        "csv_bytes": size,
        "zip_bytes": (served / file.name).stat().st_size,
    }


def _decimal_text(units: Any, scale: int) -> Any:
    """Return integers in units of 10^-scale as decimal text, like the exchange writes them."""
    import pyarrow as pa

    integers = pa.array(units).cast(pa.decimal128(20, 0))
    return pa.Array.from_buffers(pa.decimal128(20, scale), len(integers), integers.buffers()).cast(pa.string())


def load_archive(home: str, served: str) -> dict[str, Any]:
    """Load the day into an empty lake: request, download over loopback, checksum, conversion, checks, commit."""
    import pyarrow.compute
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401
    import pyiceberg.io.pyarrow  # noqa: F401

    from cryptolake_assets.binance.archive_files import ArchiveClient, ArchiveFile
    from cryptolake_assets.ingest.archive_days import load_day
    from cryptolake_assets.lake.bootstrap import bootstrap

    shutil.rmtree(home, ignore_errors=True)
    lakes.give_ports(Path(home))
    settings = lakes.lake_settings(Path(home))
    bootstrap(settings)
    with _exchange(settings.exchange_port, served) as url, ArchiveClient(url) as client:
        clock = Clock()
        loaded = load_day(settings, client, ArchiveFile(SYMBOL, DAY), "benchmark")
        reading = clock.reading()
    assert all(outcome.passed for outcome in loaded.outcomes), loaded.outcomes
    return {**reading, "rows": loaded.rows}


@contextmanager
def _exchange(port: int, served: str) -> Iterator[str]:
    """Run the replay exchange in a separate process; yield its URL."""
    import httpx

    environment = {
        **os.environ,
        "CRYPTOLAKE_EXCHANGE_PORT": str(port),
        "CRYPTOLAKE_REPLAY_DIR": served,
        "CRYPTOLAKE_LOG_LEVEL": "ERROR",
    }
    command = [sys.executable, "-m", "cryptolake_assets.replay.server"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                httpx.get(f"{url}/replay/status").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the replay exchange exited"
                assert time.monotonic() < deadline, "the replay exchange did not respond"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (make_archive, load_archive)}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
