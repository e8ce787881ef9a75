"""The capture writer: verbatim frames, rotation, recovery after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cryptolake_assets.captures.reader import capture_files, read_frames
from cryptolake_assets.captures.writer import FLUSH_S, PART, CaptureWriter, recover
from cryptolake_assets.errors import CaptureError

FIRST_US = 1_721_347_020_000_000


class Wall:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def frame(number: int) -> bytes:
    return b'{"stream":"btcusdt@trade","data":{"e":"trade","t":%d,"odd":"\\u00e9 \xc3\xa9"}}' % number


def numbers(directory: Path) -> list[int]:
    return [item.receive_time_ns // 1000 - FIRST_US for item in read_frames(directory)]


def test_written_frames_are_read_back_verbatim(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "new" / "place", "trade", 60)
    for number in range(100):
        writer.write(FIRST_US + number, frame(number))
    writer.close()
    found = list(read_frames(tmp_path / "new" / "place"))
    assert [item.raw.encode() for item in found] == [frame(number) for number in range(100)]
    assert [item.receive_time_ns for item in found] == [(FIRST_US + number) * 1000 for number in range(100)]
    assert (writer.frames, writer.files, writer.skipped) == (100, 1, 0)
    assert writer.size_bytes == sum(path.stat().st_size for path in capture_files(tmp_path / "new" / "place"))


def test_file_gets_its_name_when_complete(tmp_path: Path) -> None:
    wall = Wall()
    writer = CaptureWriter(tmp_path, "trade", 60, wall)
    for number in range(4):
        writer.write(FIRST_US + number, frame(number))
        wall.now += 30
    assert len(capture_files(tmp_path)) == 1
    assert numbers(tmp_path) == [0, 1]
    assert len(list(tmp_path.glob(f"*{PART}"))) == 1
    writer.close()
    assert numbers(tmp_path) == [0, 1, 2, 3]
    assert list(tmp_path.glob(f"*{PART}")) == []


def test_line_breaks_become_spaces_and_frames_without_utf_8_are_skipped(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path, "trade", 60)
    writer.write(FIRST_US, b'{\n "a": 1,\r\n "b": 2\n}')
    writer.write(FIRST_US + 1, b"\xff\xfe")
    writer.write(FIRST_US + 2, b"not json")
    writer.close()
    assert [item.raw for item in read_frames(tmp_path)] == ['{  "a": 1,   "b": 2 }', "not json"]
    assert writer.skipped == 1


def test_next_writer_recovers_the_flushed_frames_of_a_killed_one(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from cryptolake_assets.captures.writer import CaptureWriter
clock = iter(range(10**9))
writer = CaptureWriter(Path(sys.argv[1]), "trade", 10**9, lambda: next(clock) * {FLUSH_S})
for number in range(5000):
    writer.write({FIRST_US} + number, b'{{"n":%d}}' % number)
print("written", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    with pytest.raises(CaptureError, match="contains no"):
        capture_files(tmp_path)
    writer = CaptureWriter(tmp_path, "trade", 60)
    assert len(capture_files(tmp_path)) == 1
    assert numbers(tmp_path) == list(range(5000))
    writer.write(FIRST_US + 5000, frame(5000))
    writer.close()
    assert numbers(tmp_path) == list(range(5001))


@pytest.mark.parametrize("bytes_left", [0, 5, 20, 400, 3_000])
def test_every_complete_line_of_a_truncated_file_is_recovered(tmp_path: Path, bytes_left: int) -> None:
    writer = CaptureWriter(tmp_path, "trade", 60)
    for number in range(2_000):
        writer.write(FIRST_US + number, frame(number * number))
    writer.close()
    (path,) = capture_files(tmp_path)
    part = path.with_name(path.name + PART)
    part.write_bytes(path.read_bytes()[:bytes_left])
    path.unlink()
    recovered = recover(tmp_path)
    assert not part.exists()
    found = numbers(tmp_path) if recovered else []
    assert found == list(range(len(found)))
    assert bool(recovered) == (bytes_left >= 400)


def test_directory_that_cannot_be_created_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptureError, match="cannot be written"):
        CaptureWriter(tmp_path / "file" / "directory", "trade", 60)
