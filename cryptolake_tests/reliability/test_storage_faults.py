"""Faults of storage, checkpoints and history, on a lake and files without a platform."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cryptolake_assets.settings import Settings
from cryptolake_tests.support.archives import aggregates
from cryptolake_tests.support.bronze import append, trade
from reliability.drills import checkpoint_faults, history_faults, small_disk, storage_faults
from reliability.drills.drilled_platform import DrilledPlatform

START = datetime(2024, 7, 19, 10, tzinfo=UTC)


@pytest.fixture
def platform(lake: Settings) -> DrilledPlatform:
    """A platform without processes, of which only the settings are used."""
    return cast(DrilledPlatform, SimpleNamespace(settings=lake))


@pytest.mark.parametrize("damage", sorted(storage_faults.DAMAGES))
def test_damaged_file_is_put_back(lake: Settings, platform: DrilledPlatform, damage: str) -> None:
    append(lake, [trade(START, 1)])
    (path,) = Path(lake.home, "warehouse").rglob("*.parquet")
    before = path.read_bytes()
    with storage_faults.file_unreadable(platform, {"part": "bronze", "damage": damage, "newest": 3}):
        assert not path.exists() or path.read_bytes() != before
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.kept"))


def test_locked_catalog_accepts_no_commit(lake: Settings, platform: DrilledPlatform) -> None:
    def write() -> None:
        with closing(sqlite3.connect(lake.catalog_db, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")

    with storage_faults.catalog_locked(platform, {}), pytest.raises(sqlite3.OperationalError, match="locked"):
        write()
    write()


def test_full_disk_has_no_byte_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [2_500_001]

    def write(_: int, block: bytes) -> int:
        if len(block) > free[0]:
            raise OSError(errno.ENOSPC, "no space left")
        free[0] -= len(block)
        return len(block)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with small_disk.filled(tmp_path):
            assert free == [0]
    assert not list(tmp_path.iterdir())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint with batches 2 to 10."""
    for name in ("offsets", "commits"):
        (tmp_path / name).mkdir()
        for batch in range(2, 11):
            (tmp_path / name / str(batch)).write_text("0123456789")
            (tmp_path / name / f".{batch}.crc").write_text("checksum")
    (tmp_path / "metadata").write_text("0123456789")
    return tmp_path


@pytest.mark.parametrize(("name", "path"), [("offsets", "offsets/10"), ("metadata", "metadata")])
def test_newest_file_of_a_checkpoint_is_truncated(directory: Path, name: str, path: str) -> None:
    checkpoint_faults.truncate(directory, {"file": name, "share": 0.5})
    changed = [item for item in directory.rglob("*") if item.is_file() and item.read_text() == "01234"]
    assert changed == [directory / path]


def test_newest_commit_of_a_checkpoint_is_lost(directory: Path) -> None:
    checkpoint_faults.lose_commit(directory, {})
    assert not (directory / "commits" / "10").exists()
    assert (directory / "offsets" / "10").exists()


def test_first_issue_of_a_day_lacks_consecutive_ids() -> None:
    day = aggregates(date(2024, 7, 19), 900)
    for seed in range(20):
        kept = history_faults._without_range(day, random.Random(seed))  # noqa: S311 - no secret
        missing = [item.agg_id for item in day if item not in kept]
        assert missing == list(range(missing[0], missing[-1] + 1))
        assert kept
