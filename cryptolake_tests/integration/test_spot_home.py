"""A Spot home of an earlier release moves to its own tables, topic and checkpoints: killed meanwhile, nothing is lost
or stored twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from cryptolake_assets.bronze.offsets import committed_offsets
from cryptolake_assets.bronze.stream import run_available_now
from cryptolake_assets.errors import BrokerError
from cryptolake_assets.kafka.topics import ensure_topics, peek
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.lake.files import read_text
from cryptolake_assets.lake.gap_ledger import read_gaps
from cryptolake_assets.lake.migrations import MIGRATIONS, lake_schema
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.lake.spot_home import SPOT
from cryptolake_assets.lake.stream_checkpoints import checkpoint, read_offsets
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.markets import SPOT as VENUE
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.lakes import OLD_LAKES, append_old, open_old
from cryptolake_tests.support.platforms import StartPlatform, free_ports
from cryptolake_tests.support.records import event

OLD_TOPIC, NEW_TOPIC = "binance_futures_realtime", "binance_spot_realtime"
DRAINED = {1: 1_677, 2: 2_323}  # as in the recorded checkpoint; partitions 0 and 3 are empty
REJECTED_FROM = 1_600  # of partition 1: the query of rejected records is behind
UNDRAINED = {0: 20, 1: 50, 2: 30}
FIRST_ID = 10**12  # of the undrained trades
GARBAGE = (b"not an event", b"not an event either")
LETTERS = tuple(f"letter {number}".encode() for number in range(3))
HOUR = datetime(2024, 7, 19, tzinfo=UTC)

KILLED_BOOTSTRAP = """
import asyncio, os, signal, sys
from aiokafka import AIOKafkaProducer
from pyiceberg.catalog.sql import SqlCatalog
from cryptolake_assets.lake import stream_checkpoints
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.settings import get_settings

steps = int(sys.argv[1])

def step():
    global steps
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(owner, name):
    work = getattr(owner, name)
    def count(*arguments, **options):
        result = work(*arguments, **options)
        step()
        return result
    setattr(owner, name, count)

counted(SqlCatalog, "commit_table")
counted(SqlCatalog, "rename_table")
counted(stream_checkpoints, "write_text")
send, sent = AIOKafkaProducer.send, 0

async def send_and_die(self, *arguments, **options):
    global sent
    result = await send(self, *arguments, **options)
    sent += 1
    if sent == 30:
        await self.flush()
    if sent == 35:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

AIOKafkaProducer.send = send_and_die
bootstrap(get_settings())
"""
"""A bootstrap that is killed after so many commits, renames and checkpoint files, or in the middle of sent records."""


@pytest.fixture
def old_home(start_platform: StartPlatform, tmp_path: Path) -> Iterator[Settings]:
    """The recorded Spot home with a broker, whose topics have the recorded offsets and undrained records."""
    settings = open_old("spot", tmp_path / "home", source="binance", kafka_partitions=4, **free_ports())
    with start_platform(settings, [KAFKA]):
        ensure_topics(settings.model_copy(update={"kafka_topic_spot": OLD_TOPIC}))
        asyncio.run(fill(settings))
        rejected = Path(checkpoint(settings, "bronze_futures_trades_rejected").removeprefix("file://"))
        offsets = rejected / "offsets" / "0"
        offsets.write_text(offsets.read_text().replace(f'"1":{DRAINED[1]}', f'"1":{REJECTED_FROM}'))
        # The stream was killed between the table's commit and the checkpoint's.
        trades = Path(checkpoint(settings, "bronze_futures_trades").removeprefix("file://"))
        (trades / "commits" / "0").unlink()
        claim(settings)
        yield settings


async def fill(settings: Settings) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:

        async def send(topic: str, number: int, value: bytes, **options: Any) -> None:
            await producer.send(topic, value, b"BTCUSDT", number, **options)

        for number, count in DRAINED.items():
            for offset in range(count):
                value = GARBAGE[0] if (number, offset) == (1, REJECTED_FROM + 5) else b"drained"
                await send(OLD_TOPIC, number, value if offset >= REJECTED_FROM and number == 1 else event(offset))
        trade_id = FIRST_ID
        for number, count in UNDRAINED.items():
            for _ in range(count):
                value = event(trade_id, exchange=VENUE.exchange)
                await send(OLD_TOPIC, number, value, headers=[("source", b"rest")], timestamp_ms=1_721_347_200_000)
                trade_id += 1
        await send(OLD_TOPIC, 2, GARBAGE[1])
        for letter in LETTERS:
            await send(f"{OLD_TOPIC}_rejected", 3, letter, headers=[("reason", b"not_json: a letter")])
        await producer.flush()


def claim(settings: Settings) -> None:
    """Write coverage up to the drained offset, the topic's end, and an offset of an earlier topic; and closed gaps."""
    common = {"exchange": VENUE.exchange, "symbol": "BTCUSDT", "stream": "trade", "source": "wss://x"}
    ends = (DRAINED[1], DRAINED[1] + UNDRAINED[1], 5_000)
    rows = [
        {
            **common,
            "connected_from": HOUR + timedelta(days=1, hours=number),
            "connected_to": HOUR + timedelta(days=1, hours=number, minutes=30),
            "kafka_partition": 1,
            "kafka_offset": end,
            "updated_at": HOUR,
        }
        for number, end in enumerate(ends)
    ]
    append_old(settings, OPS_COVERAGE, rows, {})
    gaps = [
        {
            **{name: value for name, value in common.items() if name != "source"},
            "first_missing_id": end,
            "last_missing_id": end,
            "ids_missing": 0,
            "missing_after": HOUR,
            "missing_before": HOUR,
            "detected_at": HOUR,
            "closed_at": HOUR,
            "closed_by": "stream",
            "outcome": "arrived",
            "kafka_partition": 1,
            "kafka_offset": end,
        }
        for end in ends
    ]
    append_old(settings, FUTURES.gaps, gaps, {})


def environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings.environment()}


def killed_bootstrap(settings: Settings, steps: int) -> int:
    command = [sys.executable, "-c", KILLED_BOOTSTRAP, str(steps)]
    return subprocess.run(command, check=False, timeout=300, env=environment(settings)).returncode


def files(settings: Settings, table: Any) -> dict[str, str]:
    """Return the content hash of each data file."""
    paths = [local_path(task.file.file_path) for task in load_table(settings, table).scan().plan_files()]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}


def undrained(settings: Settings, topic: str, since: dict[int, int]) -> list[tuple[Any, ...]]:
    """Return the topic's records from these offsets on, by partition and offset."""
    records = [one for one in peek(settings, topic, 10_000) if one.offset >= since.get(one.partition, 0)]
    records.sort(key=lambda one: (one.partition, one.offset))
    return [(one.partition, one.key, one.value, one.headers, one.timestamp_ms) for one in records]


def count(settings: Settings, sql: str) -> int:
    (row,) = run_sql(settings, f"SELECT count(*) AS n FROM {sql}").to_pylist()
    return int(row["n"])


@pytest.mark.nightly
def test_home_killed_while_it_moves_has_every_record_exactly_once(old_home: Settings) -> None:
    recorded = json.loads((OLD_LAKES / "spot-2026-11.json").read_text())
    bronze = files(old_home, FUTURES.trades)
    since = {**DRAINED, 1: REJECTED_FROM}
    records = undrained(old_home, OLD_TOPIC, since)
    kills = 0
    while (code := killed_bootstrap(old_home, steps=5)) == -signal.SIGKILL:
        kills += 1
        assert kills < 40
    assert code == 0
    assert kills > 6, "among renames, column changes, rewritten files, sent records and checkpoints"
    assert bootstrap(old_home) == [], "a second bootstrap changes nothing"
    assert files(old_home, SPOT.trades) == bronze, "no file of Bronze is rewritten"
    assert load_table(old_home, FUTURES.trades).location() != load_table(old_home, SPOT.trades).location()

    # Kafka and the checkpoints.
    assert undrained(old_home, NEW_TOPIC, {}) == records
    assert committed_offsets(old_home) == {0: 0, 1: DRAINED[1] - REJECTED_FROM, 2: 0, 3: 0}
    old = read_offsets(old_home, checkpoint(old_home, "bronze_futures_trades"))
    assert old[OLD_TOPIC] == {0: 20, 1: DRAINED[1] + 50, 2: DRAINED[2] + 31, 3: 0}

    # Coverage and gaps: in Bronze, not yet in Bronze, and of an earlier topic.
    claims = [row for row in read_coverage(old_home) if row.source == "wss://x"]
    assert [row.kafka_offset for row in claims] == [0, DRAINED[1] - REJECTED_FROM + UNDRAINED[1]]
    offsets = {gap.first_missing_id: gap.kafka_offset for gap in read_gaps(old_home)}
    assert list(offsets.values()) == [0, DRAINED[1] - REJECTED_FROM + UNDRAINED[1], 2**62]
    assert covered(old_home) == [True, False]

    # Spark appends every record once.
    lifecycle.up(old_home, [KAFKA, SPARK])
    both = old_home.model_copy(update={"markets": (Market.SPOT, Market.USD_M)})
    ensure_topics(both)
    run_available_now(both)
    assert covered(old_home) == [True, True]
    total, new = recorded["bronze.futures_trades"], sum(UNDRAINED.values())
    assert count(old_home, f"cryptolake.bronze.spot_trades WHERE trade_id >= {FIRST_ID}") == new
    assert count(old_home, "cryptolake.bronze.spot_trades") == total + new
    identities = "(SELECT DISTINCT exchange, symbol, stream, trade_id FROM cryptolake.bronze.spot_trades)"
    assert count(old_home, identities) == total + new
    rejected = [
        row["raw"] for row in run_sql(old_home, "SELECT raw FROM cryptolake.bronze.spot_trades_rejected").to_pylist()
    ]
    assert sorted(rejected) == sorted([*GARBAGE, *LETTERS, *[b"drained"] * (DRAINED[1] - REJECTED_FROM - 1)])
    assert count(old_home, "cryptolake.bronze.futures_trades") == 0, "the old topic's records are not read again"


def covered(settings: Settings) -> list[bool]:
    """Return, per claim of `claim` that is left, whether its time counts."""
    claims = [row for row in read_coverage(settings) if row.source == "wss://x"]
    offsets = committed_offsets(settings)
    return [
        CompletenessIndex([row], offsets, 0).is_complete(
            row.exchange, row.symbol, row.stream, row.connected_from_ms, row.connected_to_ms
        )
        for row in claims
    ]


def test_home_without_kafka_stays_pending_and_says_why(tmp_path: Path) -> None:
    settings = open_old("spot", tmp_path / "home", source="binance", kafka_bootstrap_servers="127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(BrokerError, match=r"127.0.0.1:9.*does not start: the records of this Spot home"):
            bootstrap(settings)
    schema = lake_schema(settings)
    assert schema is not None
    assert schema.pending == MIGRATIONS[-2:]
    assert get_catalog(settings).table_exists(SPOT.trades.identifier)
    assert read_text(settings, f"{checkpoint(settings, 'bronze_futures_trades')}/metadata") is not None
