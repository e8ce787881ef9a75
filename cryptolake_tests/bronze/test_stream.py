"""The pattern of producer records, and the stream's process around a lost server, tested without Spark."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from cryptolake_assets.binance.stream_types import TRADES
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.errors import SparkError
from cryptolake_assets.kafka.kafka_records import KafkaRecordFormat
from cryptolake_assets.lake.spark_session import await_server, require_living_server
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, PROJECT_ROOT, Settings, load_settings
from cryptolake_tests.support.captures import agg_trade_frame

TRADE_RECORDS = KafkaRecordFormat(TRADES.contract)
GOOD = agg_trade_frame("BTCUSDT", 17, 1_700_000_000_000)


def written(frame: str) -> str:
    parsed = parse_frame(frame, ingest_time_us=1_700_000_000_000_000, exchange=USD_M.exchange)
    assert isinstance(parsed, AcceptedFrame)
    return parsed.event.encode().decode()


def test_pattern_matches_every_record_of_the_producer() -> None:
    matches = re.compile(TRADE_RECORDS.written).fullmatch
    assert [bool(matches(written(frame.raw))) for frame in read_frames(DEMO_CAPTURE_DIR)] == [True] * 24_356
    assert matches(written(GOOD))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"event_time":', '"event_time":-'),
        ('"event_time":1', '"event_time":01'),
        ('"event_time":1', '"event_time":11111111111'),
        ('"symbol":"B', '"symbol":"\\\\B'),
        ('"symbol":"B', '"symbol":"\\n'),
        ('"symbol":"B', '"symbol":"","x":"B'),
        ('"price":"', '"price":"1e'),
        ('"qty":"', '"qty":"12345678901234567890'),
        ('"side":"', '"side":null,"x":"'),
        ("{", " {"),
        ("}", "}}"),
        ("}", "}\n"),
    ],
)
def test_pattern_rejects_other_records(old: str, new: str) -> None:
    changed = written(GOOD).replace(old, new, 1)
    assert changed != written(GOOD)
    assert not re.compile(TRADE_RECORDS.written).fullmatch(changed)


@pytest.fixture
def unserved() -> Settings:
    """Settings of a Spark server whose port nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return load_settings(spark_connect_port=port)


def test_killed_server_is_noticed_by_its_port(unserved: Settings) -> None:
    with pytest.raises(SparkError, match="cannot be reached"):
        require_living_server(unserved)
    with socket.create_server(("127.0.0.1", unserved.spark_connect_port)):
        require_living_server(unserved)


def test_stream_waits_for_a_starting_server(unserved: Settings) -> None:
    stopping = threading.Event()
    began = time.monotonic()
    await_server(unserved, stopping, timeout_s=0.6)
    assert 0.6 <= time.monotonic() - began < 2
    waits = threading.Thread(target=await_server, args=(unserved, stopping, 60))
    waits.start()
    with socket.create_server(("127.0.0.1", unserved.spark_connect_port)):
        waits.join(5)
    assert not waits.is_alive()
    stopping.set()
    await_server(unserved, stopping, timeout_s=60)


def test_process_ends_at_once_while_a_client_thread_retries() -> None:
    code = "import threading, time; from cryptolake_assets.bronze.stream import end_process; "
    code += "threading.Thread(target=time.sleep, args=(60,)).start(); print('failed', flush=False); end_process(1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "failed\n")
