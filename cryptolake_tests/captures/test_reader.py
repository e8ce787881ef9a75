"""The capture reader: line formats, merging, summaries, first and last day, errors of damaged files."""

from __future__ import annotations

import gzip
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from cryptolake_assets.captures import reader
from cryptolake_assets.captures.reader import MAX_LINE_BYTES, first_day, last_day, read_frames, summarise
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import HostileFrame, agg_trade_frame, trade_frame, write_capture

NOON_MS = 1_700_049_600_000  # 2023-11-15T12:00:00Z
NOON_NS = NOON_MS * 10**6


def _lines(directory: Path, name: str, *lines: str) -> Path:
    (directory / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("1721347021186954583 x", 1_721_347_021_186_954_583),
        ("1721347021186954 x", 1_721_347_021_186_954_000),
        ("1626992741.06217: x", 1_626_992_741_062_170_000),
        ("1626992741.0621712345678 x", 1_626_992_741_062_171_234),
        ("1626992741062 x", 1_626_992_741_062_000_000),
        ("1626992741: x", 1_626_992_741_000_000_000),
        ("2023-11-15T12:00:00.0000001Z x", NOON_NS + 100),
        ("2023-11-15T12:00:00Z x", NOON_NS),
        ("2023-11-15T12:00:00.123456789Z x", NOON_NS + 123_456_789),
    ],
)
def test_receive_times_are_read_in_every_unit(tmp_path: Path, text: str, expected_ns: int) -> None:
    (frame,) = read_frames(_lines(tmp_path, "a.ndjson", text))
    assert (frame.receive_time_ns, frame.raw) == (expected_ns, "x")


def test_frames_are_verbatim(tmp_path: Path) -> None:
    raws = ['{"a" : 1 }', "  padded  ", "{broken", "", "käse £ \u2028 x"]
    directory = _lines(tmp_path, "a.ndjson", *(f"{NOON_NS + i} {raw}" for i, raw in enumerate(raws)))
    assert [frame.raw for frame in read_frames(directory)] == raws


def test_lines_with_urls_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    url = "wss://host/stream?streams=a <-> 1626992740.1"
    request = "https://host/fapi/v1/depth?symbol=BTCUSDT -> 1626992740.1"
    directory = _lines(tmp_path, "a.ndjson", url, "", f"{NOON_NS} x", "  ", url, request, "\r", f"{NOON_NS} y\r", url)
    assert [frame.raw for frame in read_frames(directory)] == ["x", "y"]


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz"])
def test_byte_order_mark_of_a_file_is_removed(tmp_path: Path, name: str) -> None:
    text = b"\xef\xbb\xbf" + f"{NOON_NS} x\r\n{NOON_NS} y\r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert [frame.raw for frame in read_frames(tmp_path)] == ["x", "y"]
    (tmp_path / name).write_bytes(b"")
    assert list(read_frames(tmp_path)) == []


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz"])
def test_byte_order_marks_within_concatenated_files_are_removed(tmp_path: Path, name: str) -> None:
    parts = [b"\xef\xbb\xbfwss://x <-> 1\n", f"\ufeff{NOON_NS} x\n".encode(), f"\ufeff{NOON_NS} y\n".encode()]
    encode = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(b"".join(map(encode, parts)))
    assert [frame.raw for frame in read_frames(tmp_path)] == ["x", "y"]


@pytest.mark.parametrize("line", ["WSS://x <-> 1", " wss://x", "\t Https://x", "\ufeffWs://x", "\ufeff", "  "])
def test_address_is_recognized_in_capitals_and_after_blanks(tmp_path: Path, line: str) -> None:
    assert [frame.raw for frame in read_frames(_lines(tmp_path, "a.ndjson", line, f"{NOON_NS} x", line))] == ["x"]


@pytest.mark.parametrize("rest", ['{"e":"tra', "", '{"a":1}x'])
def test_unfinished_last_line_is_skipped(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text(f'{NOON_NS} {{"a":1}}\n{NOON_NS} {rest}')
    assert [frame.raw for frame in read_frames(tmp_path)] == ['{"a":1}']
    path.write_text(f'{NOON_NS} {{"a":1}}\n{NOON_NS // 10**6}')
    assert [frame.raw for frame in read_frames(tmp_path)] == ['{"a":1}']
    path.write_text(f'{NOON_NS} {{"a":1}}\n{NOON_NS} {{"a":2}}')
    assert [frame.raw for frame in read_frames(tmp_path)] == ['{"a":1}', '{"a":2}'], (
        "a complete frame without a line end"
    )


def test_invalid_date_is_rejected_with_its_line(tmp_path: Path) -> None:
    directory = _lines(tmp_path, "a.ndjson", "2023-13-15T12:00:00Z x")
    with pytest.raises(CaptureError, match=r"a\.ndjson, line 1: 2023-13-15T12:00:00 is not a valid time"):
        list(read_frames(directory))


def test_files_are_merged_by_receive_time_with_mixed_units(tmp_path: Path) -> None:
    write_capture(tmp_path / "b.ndjson.gz", [(NOON_NS, "b0"), (NOON_NS + 2_000, "b2"), (NOON_NS + 4_000, "b4")])
    micros = NOON_NS // 1_000
    _lines(tmp_path, "a.ndjson", f"{micros} a0", f"{micros + 1} a1", f"{micros + 3} a3")
    _lines(tmp_path, "notes.txt", "not a capture")
    assert [frame.raw for frame in read_frames(tmp_path)] == ["a0", "b0", "a1", "b2", "a3", "b4"]


def test_frames_are_streamed(tmp_path: Path) -> None:
    """The first frames arrive before the reader reaches a damaged line."""
    _lines(tmp_path, "a.ndjson", f"{NOON_NS} x", "damaged")
    _lines(tmp_path, "b.ndjson", f"{NOON_NS + 1} y")
    frames = read_frames(tmp_path)
    assert next(frames).raw == "x"
    with pytest.raises(CaptureError, match="line 2"):
        list(frames)


@pytest.mark.parametrize("line", ["12345 x", "x", "172134702118695458 x", f"{NOON_NS}", f"{NOON_NS}x y", "-1 x"])
def test_line_without_receive_time_is_rejected_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(CaptureError, match=r"a\.ndjson, line 2: no receive time .* Correct or remove the line"):
        list(read_frames(_lines(tmp_path, "a.ndjson", f"{NOON_NS} x", line)))


def test_damaged_files_raise_errors_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson.gz"
    data = gzip.compress("".join(f"{NOON_NS + i} frame {i}\n" for i in range(50_000)).encode())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CaptureError, match=r"a\.ndjson\.gz cannot be read after line \d+ .*copy it again"):
        summarise(tmp_path)
    path.write_bytes(b"plain text, not gzip")
    with pytest.raises(CaptureError, match=r"a\.ndjson\.gz cannot be read after line 0"):
        summarise(tmp_path)
    path.unlink()
    (tmp_path / "b.ndjson").write_bytes(f"{NOON_NS} ".encode() + b"\xff\xfe\n")
    with pytest.raises(CaptureError, match=r"b\.ndjson, line 1: the frame is not UTF-8"):
        summarise(tmp_path)
    (tmp_path / "b.ndjson").write_bytes(f"{NOON_NS} ".encode() + b"x" * MAX_LINE_BYTES)
    with pytest.raises(CaptureError, match=r"b\.ndjson, line 1: longer than"):
        summarise(tmp_path)


def test_directories_without_captures_raise_errors(tmp_path: Path) -> None:
    for call in (read_frames, summarise, first_day):
        with pytest.raises(CaptureError, match=r"contains no \*\.ndjson .*CRYPTOLAKE_REPLAY_DIR"):
            call(tmp_path)
        with pytest.raises(CaptureError, match="is not a directory"):
            call(tmp_path / "missing")
    _lines(tmp_path, "a.ndjson", "")
    for call in (summarise, first_day):
        with pytest.raises(CaptureError, match="contain no frames"):
            call(tmp_path)


def test_summary_of_the_shipped_capture() -> None:
    summary = summarise(DEMO_CAPTURE_DIR)
    assert summary.frame_count == 24_356
    assert summary.symbols == ("ETHUSDT", "BTCUSDT")
    assert summary.trade_streams == {"ETHUSDT": ("trade",), "BTCUSDT": ("trade",)}
    assert summary.stream_names == ("ethusdt@trade", "btcusdt@trade")
    assert (summary.first_event_time_ms, summary.last_event_time_ms) == (1_721_347_022_708, 1_721_347_502_282)
    assert summary.clock_offset_ns == 1_524_102_821
    assert first_day(DEMO_CAPTURE_DIR) == date(2024, 7, 18)


def test_summary_of_mixed_streams(tmp_path: Path) -> None:
    depth = f'{{"stream":"btcusdt@depth","data":{{"e":"depthUpdate","E":{NOON_MS},"s":"BTCUSDT"}}}}'
    raw_stream = f'{{"e":"aggTrade","E":{NOON_MS + 5},"T":{NOON_MS + 5},"s":"ETHUSDT","a":1}}'
    raw_order = f'{{"e":"forceOrder","E":{NOON_MS},"o":{{"s":"币安人生USDT"}}}}'
    mismatched = '{"stream":"btcusdt@trade","data":{"e":"trade","E":1,"T":1,"s":"OTHER"}}'
    frames = [
        depth,
        agg_trade_frame("ADAUSDT", 1, NOON_MS + 1),
        trade_frame("ADAUSDT", 1, NOON_MS + 2),
        raw_stream,
        raw_order,
        mismatched,
    ]
    write_capture(tmp_path / "a.ndjson", ((NOON_NS + i, raw) for i, raw in enumerate(frames)))
    summary = summarise(tmp_path)
    assert summary.symbols == ("BTCUSDT", "ADAUSDT", "ETHUSDT")
    assert summary.trade_streams == {"BTCUSDT": (), "ADAUSDT": ("trade", "aggTrade"), "ETHUSDT": ("aggTrade",)}
    assert summary.stream_names == (
        *("btcusdt@depth", "adausdt@aggTrade", "adausdt@trade", "ethusdt@aggTrade", "币安人生usdt@forceOrder"),
        "btcusdt@trade",
    )
    assert (summary.first_event_time_ms, summary.last_event_time_ms) == (NOON_MS, NOON_MS + 5)


def test_hostile_frames_do_not_affect_the_clock(hostile_capture: tuple[Path, list[HostileFrame]]) -> None:
    directory, hostile = hostile_capture
    clean, summary = summarise(DEMO_CAPTURE_DIR), summarise(directory)
    assert summary.frame_count == clean.frame_count + len(hostile)
    assert summary.symbols == clean.symbols
    assert summary.clock_offset_ns == clean.clock_offset_ns
    assert (summary.first_event_time_ms, summary.last_event_time_ms) == (
        clean.first_event_time_ms,
        clean.last_event_time_ms,
    )
    raws = {frame.raw for frame in read_frames(directory)}
    assert raws >= {frame.raw for frame in hostile}


def test_wrong_dates_in_the_head_affect_neither_clock_nor_first_day(tmp_path: Path) -> None:
    times = [4_070_908_800_000, 1_546_300_800_000, *(NOON_MS + i for i in range(20))]
    write_capture(
        tmp_path / "a.ndjson", ((NOON_NS + i, trade_frame("BTCUSDT", i, time)) for i, time in enumerate(times))
    )
    assert first_day(tmp_path) == date(2023, 11, 15)
    summary = summarise(tmp_path)
    assert (summary.first_event_time_ms, summary.last_event_time_ms) == (NOON_MS, NOON_MS + 19)


def test_first_day_is_the_earliest_trade_day_of_all_files(tmp_path: Path) -> None:
    midnight_ms = 1_700_092_800_000  # 2023-11-16T00:00:00Z
    before = (midnight_ms - 1_000) * 10**6  # the receive clock is 1 s slow
    write_capture(tmp_path / "z.ndjson", [(before, trade_frame("BTCUSDT", 1, midnight_ms))])
    assert first_day(tmp_path) == date(2023, 11, 16)
    write_capture(tmp_path / "y.ndjson", [(before - 10**9, trade_frame("BTCUSDT", 2, midnight_ms - 1))])
    assert first_day(tmp_path) == date(2023, 11, 15)


def test_first_day_reads_only_the_head(tmp_path: Path) -> None:
    good = [f"{NOON_NS + i} {trade_frame('BTCUSDT', i, NOON_MS + i)}" for i in range(100)]
    _lines(tmp_path, "a.ndjson", *good, "damaged")
    assert first_day(tmp_path) == date(2023, 11, 15)


def test_summary_is_stored_for_other_processes_until_a_capture_changes(tmp_path: Path) -> None:
    midnight_ms = 1_700_092_800_000  # 2023-11-16T00:00:00Z
    after = (midnight_ms + 1_000) * 10**6  # the receive clock is 1 s fast
    captures = tmp_path / "captures"
    captures.mkdir()
    write_capture(captures / "a.ndjson", [(after, trade_frame("币安人生USDT", 1, midnight_ms - 1))])
    run = tmp_path / "run"
    read = summarise(captures, run)
    assert not run.exists()
    run.mkdir()
    assert read_in_another_process(captures, run) == read
    (stored,) = run.iterdir()
    stored.write_text(stored.read_text().replace("币安人生USDT", "STOREDUSDT"))
    assert read_in_another_process(captures, run).symbols == ("STOREDUSDT",), "the stored summary is used"
    assert last_day([captures], run) == date(2023, 11, 15)
    write_capture(captures / "b.ndjson", [(after + 10**9, trade_frame("币安人生USDT", 2, midnight_ms))])
    assert read_in_another_process(captures, run).symbols == ("币安人生USDT",)
    assert last_day([captures], run) == date(2023, 11, 16)
    stored.write_text("{")
    assert read_in_another_process(captures, run) == summarise(captures)
    assert list(run.iterdir()) == [stored]


def read_in_another_process(captures: Path, run: Path) -> reader.CaptureSummary:
    """Return the summary without this process's cache."""
    reader._summarise.cache_clear()
    return summarise(captures, run)


def test_first_day_without_trades_is_the_receive_day(tmp_path: Path) -> None:
    assert first_day(_lines(tmp_path, "a.ndjson", f"{NOON_NS} not json")) == date(2023, 11, 15)


def test_summary_is_cached_until_a_file_changes(tmp_path: Path) -> None:
    directory = write_capture(tmp_path / "a.ndjson", [(NOON_NS, trade_frame("BTCUSDT", 1, NOON_MS))])
    assert summarise(directory) is summarise(directory)
    write_capture(tmp_path / "b.ndjson", [(NOON_NS, trade_frame("ETHUSDT", 1, NOON_MS))])
    assert summarise(directory).symbols == ("BTCUSDT", "ETHUSDT")


def test_import_loads_no_heavy_packages() -> None:
    """The module is imported when Dagster's definitions load."""
    code = (
        "import sys, cryptolake_assets.captures.tracked_symbols; "
        "heavy = {'aiohttp', 'httpx', 'websockets', 'pyarrow', 'pyspark', 'dagster', 'pyiceberg'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
