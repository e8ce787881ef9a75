"""Checkpoints of Spark's queries: the offsets in the table are read, and new ones are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryptolake_assets.lake import stream_checkpoints
from cryptolake_assets.lake.files import write_text
from cryptolake_assets.lake.stream_checkpoints import (
    checkpoint,
    is_sound,
    query_id,
    read_offsets,
    remove,
    remove_damaged_commits,
    write,
)
from cryptolake_assets.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path)


@pytest.fixture
def location(settings: Settings) -> str:
    """A checkpoint with two committed batches and a planned one."""
    location = checkpoint(settings, "bronze_x")
    for batch in range(3):
        write_text(settings, f"{location}/offsets/{batch}", f'v1\n{{}}\n{{"trades":{{"0":{batch},"1":7}}}}')
    for batch in range(2):
        write_text(settings, f"{location}/commits/{batch}", "v1\n{}")
    write_text(settings, f"{location}/metadata", '{"id":"old"}')
    return location


def test_offsets_are_those_of_the_newest_committed_batch(settings: Settings, location: str) -> None:
    assert read_offsets(settings, location) == {"trades": {0: 1, 1: 7}}


def test_batch_in_the_table_counts_without_its_commit_file(settings: Settings, location: str) -> None:
    assert read_offsets(settings, location, newest_in_table=2) == {"trades": {0: 2, 1: 7}}
    assert read_offsets(settings, location, newest_in_table=0) == {"trades": {0: 1, 1: 7}}


def test_missing_checkpoint_has_no_id_and_no_offsets(settings: Settings) -> None:
    missing = checkpoint(settings, "missing")
    assert (query_id(settings, missing), read_offsets(settings, missing)) == (None, {})
    remove(settings, missing)


def test_new_checkpoint_replaces_another_one(settings: Settings, location: str) -> None:
    write(settings, location, "new", {"spot": {0: 5}})
    assert (query_id(settings, location), read_offsets(settings, location)) == ("new", {"spot": {0: 5}})


def test_checkpoint_of_the_query_is_not_written_again(settings: Settings, location: str) -> None:
    write(settings, location, "old", {"spot": {0: 5}})
    assert read_offsets(settings, location) == {"trades": {0: 1, 1: 7}}


@pytest.mark.parametrize("files", range(3))
def test_interrupted_write_is_repeated(
    settings: Settings, location: str, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def write_or_die(settings: Settings, location: str, text: str) -> None:
        if len(written) == files:
            raise OSError("killed")
        written.append(location)
        write_text(settings, location, text)

    with monkeypatch.context() as patch:
        patch.setattr(stream_checkpoints, "write_text", write_or_die)
        with pytest.raises(OSError, match="killed"):
            write(settings, location, "new", {"spot": {0: 5}})
    assert query_id(settings, location) is None
    write(settings, location, "new", {"spot": {0: 5}})
    assert (query_id(settings, location), read_offsets(settings, location)) == ("new", {"spot": {0: 5}})


def damage(settings: Settings, location: str, text: str = "") -> None:
    """Replace a checkpoint's file by a damaged one; Hadoop's checksum of the earlier text stays."""
    parent, _, name = location.rpartition("/")
    write_text(settings, f"{parent}/.{name}.crc", "checksum")
    write_text(settings, location, text)


@pytest.mark.parametrize("text", ["", "v1", 'v1\n{"nextBatch', "v1\n[]"])
def test_damaged_commits_are_removed_with_their_checksums(settings: Settings, location: str, text: str) -> None:
    damage(settings, f"{location}/commits/1", text)
    assert remove_damaged_commits(settings, location) == [1]
    assert remove_damaged_commits(settings, location) == []
    assert is_sound(settings, location, newest_in_table=1)
    assert sorted(path.name for path in Path(location.removeprefix("file://"), "commits").iterdir()) == ["0"]


@pytest.mark.parametrize("text", ["", "v1\n{}", 'v1\n{}\n{"trades":{"0":'])
def test_checkpoint_with_damaged_offsets_is_not_sound(settings: Settings, location: str, text: str) -> None:
    assert is_sound(settings, location, None)
    damage(settings, f"{location}/offsets/1", text)
    assert not is_sound(settings, location, None), "Spark also reads the batch before the newest one"
    assert read_offsets(settings, location) == {"trades": {0: 0, 1: 7}}, "an earlier batch is in the table too"


def test_checkpoint_without_the_newest_batch_of_the_table_is_not_sound(settings: Settings, location: str) -> None:
    assert [is_sound(settings, location, newest) for newest in (2, 3)] == [True, False]


def test_checkpoint_without_a_readable_id_is_not_sound(settings: Settings, location: str) -> None:
    filesystem_path = Path(location.removeprefix("file://"))
    (filesystem_path / "metadata").write_bytes(b"\xff{")
    assert query_id(settings, location) is None
    assert not is_sound(settings, location, None)
    assert not is_sound(settings, checkpoint(settings, "missing"), None)
