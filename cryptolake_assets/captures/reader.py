"""Read a directory of captures: recorded WebSocket frames and their summary.

A capture is a file of `<receive time> <frame>` lines, `.ndjson` or `.ndjson.gz`. The receive time is epoch ns, µs,
ms or seconds, or ISO 8601 in UTC with up to nine digits after the second. The reader skips lines without a frame: empty
lines, lines that start with an address (recorders write `wss://… <-> time` at each connection), and an unfinished last
line. It strips a byte order mark at the start of any line, because concatenated files have them in the middle. The
files of a directory are one recording of one market, merged by receive time; so are the directories of several markets
(`market_of_capture`). Files are streamed, so memory stays bounded.

This module is imported when the Dagster definitions load: nothing heavy may be imported here.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import io
import os
import re
import statistics
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from itertools import islice, starmap
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog

from cryptolake_assets.binance.raw_streams import stream_of_event
from cryptolake_assets.captures.published_files import read_klines
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.exchange_records import TRADE_STREAMS, Kline, TradeStreamName
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.symbols import is_symbol, stream_name
from cryptolake_assets.settings.replay import CAPTURE_SUFFIXES

__all__ = [
    "CaptureSummary",
    "CapturedFrame",
    "Kline",
    "capture_files",
    "first_day",
    "last_day",
    "read_frames",
    "read_klines",
    "read_market_frames",
    "summarise",
]

log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 1 << 20  # WebSocket clients reject larger frames by default
# Maximum deviation of a frame's skew (event time minus receive time) from the recording's median. A frame beyond it
# has a wrong date: it is replayed, but does not affect the clock.
PLAUSIBLE_SKEW_NS = 600 * 10**9

_SKEW_SAMPLE = 1_001
_HEAD_FRAMES = 1_000
_HEAD_TRADES = 33
_LINE = re.compile(
    rb"(?:([0-9]{19}|[0-9]{16}|[0-9]{13})|([0-9]{10})(?:\.([0-9]+))?"
    rb"|([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z)(?:: ?| )(.*)",
    re.DOTALL,
)
_NS_DIGITS = 19  # digits of a present-day time in nanoseconds since 1970
_URL_PREFIXES = (b"ws://", b"wss://", b"http://", b"https://")
_URL_PREFIX_BYTES = max(map(len, _URL_PREFIXES))


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One recorded frame: receive time (epoch nanoseconds, the recorder's clock) and verbatim text."""

    receive_time_ns: int
    raw: str


@dataclass(frozen=True)
class CaptureSummary:
    """Summary of a market's capture directory. Unparseable frames count in `frame_count` only."""

    directory: Path
    symbols: tuple[str, ...]  # symbols of the recorded events, in order of appearance
    trade_streams: Mapping[str, tuple[TradeStreamName, ...]]  # per symbol; empty if it has no trade stream
    stream_names: tuple[str, ...]
    frame_count: int
    # First and last exchange event time (`E`), epoch milliseconds, without implausible dates.
    first_event_time_ms: int
    last_event_time_ms: int
    first_receive_time_ns: int
    last_receive_time_ns: int
    # Exchange clock minus receive clock: the smallest offset with which no frame precedes its event time.
    clock_offset_ns: int


@dataclass(frozen=True)
class _StoredSummary:
    captures: str  # fingerprint of the files
    summary: CaptureSummary


_decode_summary = msgspec.json.Decoder(_StoredSummary, dec_hook=lambda kind, value: kind(value)).decode

_EpochMs = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _Event(msgspec.Struct):
    e: str = ""
    s: str = ""
    E: _EpochMs | None = None
    T: _EpochMs | None = None
    o: Any = None  # the order of a liquidation


class _CombinedEvent(_Event):
    """A frame of a combined stream (`stream`, `data`), or of a raw stream (the event itself)."""

    stream: str = ""
    data: _Event | None = None


_decode_event = msgspec.json.Decoder(_CombinedEvent).decode


def capture_files(directory: Path) -> tuple[Path, ...]:
    """Return the capture files of a directory, sorted by name. Raises `CaptureError` if there are none."""
    if not directory.is_dir():
        raise CaptureError(
            f"capture: {directory} is not a directory. Set CRYPTOLAKE_REPLAY_DIR to a directory of captures."
        )
    try:
        files = sorted(path for path in directory.iterdir() if path.name.endswith(CAPTURE_SUFFIXES))
    except OSError as error:
        raise CaptureError(f"capture: {directory} cannot be listed ({error}). Make it readable.") from error
    if not files:
        raise CaptureError(
            f"capture: {directory} contains no *.ndjson or *.ndjson.gz file. Put captures there "
            "(lines of `<receive time in µs or ns> <frame>`; those of several markets in usdm/, spot/ and coinm/), or "
            "pass another directory in CRYPTOLAKE_REPLAY_DIR or to `cryptolake replay`."
        )
    return tuple(files)


def read_frames(directory: Path) -> Iterator[CapturedFrame]:
    """Yield the frames of all captures by receive time; ties keep the order of file name, then line.

    Raises `CaptureError` naming file and line if a file is unreadable or a line has no receive time. The frame itself
    may be any text: it is replayed as recorded.
    """
    files = capture_files(directory)
    if len(files) == 1:
        return _read_file(files[0])
    return heapq.merge(*(_read_file(path) for path in files), key=_receive_time)


def read_market_frames(directories: Mapping[Market, Path]) -> Iterator[tuple[Market, CapturedFrame]]:
    """Yield the frames of several markets, each with its market, by receive time; ties keep the order of the markets.

    Raises what `read_frames` raises.
    """

    def of_market(market: Market, directory: Path) -> Iterator[tuple[Market, CapturedFrame]]:
        return ((market, frame) for frame in read_frames(directory))

    return heapq.merge(*starmap(of_market, directories.items()), key=lambda item: item[1].receive_time_ns)


def summarise(directory: Path, stored_in: Path | None = None) -> CaptureSummary:
    """Summarize the directory in one pass; cached until a file changes.

    The pass reads every frame, so other processes find its result in the directory `stored_in`, if that exists.
    """
    return _summarise(directory, _fingerprint(directory), stored_in)


def first_day(directory: Path) -> date:
    """Return the UTC date of the first trade (its `T`), from the head of each file only.

    Skips implausible dates. For a file whose head has no trade, uses the receive time of its first frame.
    """
    return _first_day(directory, _fingerprint(directory))


def last_day(directories: Sequence[Path], stored_in: Path) -> date:
    """Return the UTC date of the last event of the directories; `stored_in` as for `summarise`."""
    last_ms = max(summarise(directory, stored_in).last_event_time_ms for directory in directories)
    return datetime.fromtimestamp(last_ms // 1_000, UTC).date()


def _fingerprint(directory: Path) -> tuple[tuple[str, int, int], ...]:
    stats = ((path, path.stat()) for path in capture_files(directory))
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def _receive_time(frame: CapturedFrame) -> int:
    return frame.receive_time_ns


def _read_file(path: Path) -> Iterator[CapturedFrame]:
    line_number = 0
    try:
        with _open(path) as file:
            for line in iter(partial(file.readline, MAX_LINE_BYTES + 1), b""):
                line_number += 1
                line = line.removeprefix(BOM_UTF8)
                if len(line) > MAX_LINE_BYTES:
                    raise _line_error(path, line_number, f"longer than {MAX_LINE_BYTES} bytes")
                try:
                    frame = _parse_line(path, line_number, line)
                except CaptureError:
                    if line.endswith(b"\n"):
                        raise
                    frame = None
                if frame is None or (not line.endswith(b"\n") and not _is_json(frame.raw)):
                    if not _has_no_frame(line):
                        log.warning("capture_line_truncated", file=str(path), line=line_number, size_bytes=len(line))
                    continue
                yield frame
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(
            f"capture: {path} cannot be read after line {line_number} ({error}). The file is damaged or incomplete: "
            "copy it again, or remove it from the directory."
        ) from error


def _open(path: Path) -> io.BufferedReader:
    if path.name.endswith(".gz"):
        return io.BufferedReader(gzip.open(path), 1 << 17)
    return path.open("rb")


def _parse_line(path: Path, line_number: int, line: bytes) -> CapturedFrame | None:
    """Return the frame of a line; None for a line without a frame."""
    if _has_no_frame(line):
        return None
    line = line.rstrip(b"\r\n")
    match = _LINE.fullmatch(line)
    if match is None:
        raise _line_error(
            path,
            line_number,
            f"no receive time at the start of {line[:40]!r}; expected 19 digits (ns), 16 (µs), 13 (ms), seconds or "
            "ISO 8601 (2026-01-31T12:00:00.1234567Z), a space, and the frame",
        )
    epoch, seconds, fraction, moment, moment_fraction, text = match.groups()
    try:
        raw = text.decode()
    except UnicodeDecodeError as error:
        raise _line_error(path, line_number, f"the frame is not UTF-8 ({error.reason})") from None
    if epoch:
        receive_time_ns = int(epoch) * 10 ** (_NS_DIGITS - len(epoch))
    elif seconds:
        receive_time_ns = int(seconds) * 10**9 + _fraction_ns(fraction)
    else:
        try:
            epoch_s = int(datetime.fromisoformat(f"{moment.decode()}+00:00").timestamp())
        except ValueError as error:
            raise _line_error(path, line_number, f"{moment.decode()} is not a valid time ({error})") from None
        receive_time_ns = epoch_s * 10**9 + _fraction_ns(moment_fraction)
    return CapturedFrame(receive_time_ns, raw)


def _has_no_frame(line: bytes) -> bool:
    text = line.lstrip()
    return not text or text[:_URL_PREFIX_BYTES].lower().startswith(_URL_PREFIXES)


def _fraction_ns(digits: bytes | None) -> int:
    """Convert the fractional digits of a second to nanoseconds."""
    return int((digits or b"")[:9].ljust(9, b"0"))


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _line_error(path: Path, line_number: int, cause: str) -> CaptureError:
    return CaptureError(f"capture: {path}, line {line_number}: {cause}. Correct or remove the line.")


def _parse_event(raw: str) -> tuple[str, _Event] | None:
    """Return (stream name or "", event) of a frame; None if it is not an exchange event."""
    try:
        frame = _decode_event(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if frame.data is not None:
        return frame.stream, frame.data
    return frame.stream or stream_of_event(frame.e, frame.s, frame.o) or "", frame


@dataclass
class _SummaryBuilder:
    """Builder of a summary, frame by frame; it keeps names and a sample, not the frames."""

    frame_count: int = 0
    first_receive_ns: int | None = None
    last_receive_ns: int = 0
    streams: dict[str, None] = field(default_factory=dict)
    symbols: dict[str, dict[TradeStreamName, None]] = field(default_factory=dict)
    sample: list[tuple[int, int]] = field(default_factory=list)
    usual_skew_ns: int | None = None
    max_skew_ns: int | None = None
    first_event_ms: int | None = None
    last_event_ms: int | None = None

    def add(self, frame: CapturedFrame) -> None:
        self.frame_count += 1
        if self.first_receive_ns is None:
            self.first_receive_ns = frame.receive_time_ns
        self.last_receive_ns = max(self.last_receive_ns, frame.receive_time_ns)
        parsed = _parse_event(frame.raw)
        if parsed is None:
            return
        stream, event = parsed
        if stream:
            self.streams[stream] = None
        # Count an event only if its symbol matches its stream's symbol.
        if is_symbol(event.s) and (not stream or stream.startswith(stream_name(event.s, ""))):
            streams = self.symbols.setdefault(event.s, {})
            for kind in TRADE_STREAMS:
                if event.e == kind and event.T is not None:
                    streams[kind] = None
        if event.E is not None:
            self._add_event_time(event.E, frame.receive_time_ns)

    def _add_event_time(self, event_time_ms: int, receive_time_ns: int) -> None:
        if self.usual_skew_ns is None:
            self.sample.append((event_time_ms, receive_time_ns))
            if len(self.sample) == _SKEW_SAMPLE:
                self.estimate_skew()
        else:
            self._count_event_time(event_time_ms, receive_time_ns)

    def estimate_skew(self) -> None:
        """Set the usual skew to the sample's median; called when the sample is full and at the end."""
        if self.usual_skew_ns is None and self.sample:
            self.usual_skew_ns = statistics.median_low(event * 10**6 - receive for event, receive in self.sample)
            for event_time_ms, receive_time_ns in self.sample:
                self._count_event_time(event_time_ms, receive_time_ns)
            self.sample.clear()

    def _count_event_time(self, event_time_ms: int, receive_time_ns: int) -> None:
        skew_ns = event_time_ms * 10**6 - receive_time_ns
        if self.usual_skew_ns is None or abs(skew_ns - self.usual_skew_ns) > PLAUSIBLE_SKEW_NS:
            return
        self.max_skew_ns = skew_ns if self.max_skew_ns is None else max(self.max_skew_ns, skew_ns)
        self.first_event_ms = event_time_ms if self.first_event_ms is None else min(self.first_event_ms, event_time_ms)
        self.last_event_ms = event_time_ms if self.last_event_ms is None else max(self.last_event_ms, event_time_ms)


@lru_cache(maxsize=8)
def _summarise(
    directory: Path, fingerprint: tuple[tuple[str, int, int], ...], stored_in: Path | None
) -> CaptureSummary:
    if stored_in is None or not stored_in.is_dir():
        return _summary_of(directory)
    path = stored_in / f"capture-{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}.json"
    key = hashlib.sha256(repr(fingerprint).encode()).hexdigest()
    try:
        stored = _decode_summary(path.read_bytes())
        if stored.captures == key:
            return stored.summary
    except (OSError, msgspec.MsgspecError):
        pass
    summary = _summary_of(directory)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(_StoredSummary(key, summary), enc_hook=str))
    temporary.replace(path)
    return summary


def _summary_of(directory: Path) -> CaptureSummary:
    builder = _SummaryBuilder()
    for frame in read_frames(directory):
        builder.add(frame)
    builder.estimate_skew()
    if builder.first_receive_ns is None:
        raise CaptureError(
            f"capture: the files in {directory} contain no frames. Record frames with `cryptolake record`, or set "
            "CRYPTOLAKE_REPLAY_DIR to other captures."
        )
    offset_ns = builder.max_skew_ns or 0  # without any event time, use the receive clock
    first_ms = (
        (builder.first_receive_ns + offset_ns) // 10**6 if builder.first_event_ms is None else builder.first_event_ms
    )
    last_ms = (builder.last_receive_ns + offset_ns) // 10**6 if builder.last_event_ms is None else builder.last_event_ms
    return CaptureSummary(
        directory=directory,
        symbols=tuple(builder.symbols),
        trade_streams={
            symbol: tuple(kind for kind in TRADE_STREAMS if kind in streams)
            for symbol, streams in builder.symbols.items()
        },
        stream_names=tuple(builder.streams),
        frame_count=builder.frame_count,
        first_event_time_ms=first_ms,
        last_event_time_ms=last_ms,
        first_receive_time_ns=builder.first_receive_ns,
        last_receive_time_ns=builder.last_receive_ns,
        clock_offset_ns=offset_ns,
    )


@lru_cache(maxsize=8)
def _first_day(directory: Path, _fingerprint: tuple[tuple[str, int, int], ...]) -> date:
    starts = [start for path in capture_files(directory) if (start := _first_trade_time_ms(path)) is not None]
    if not starts:
        raise CaptureError(
            f"capture: the files in {directory} contain no frames. Record frames with `cryptolake record`, or set "
            "CRYPTOLAKE_REPLAY_DIR to other captures."
        )
    return datetime.fromtimestamp(min(starts) // 1_000, UTC).date()


def _first_trade_time_ms(path: Path) -> int | None:
    """Return the first trade's time of one file, epoch milliseconds; None if the file has no frame."""
    first_receive_ns: int | None = None
    trades: list[tuple[int, int]] = []
    for frame in islice(_read_file(path), _HEAD_FRAMES):
        if first_receive_ns is None:
            first_receive_ns = frame.receive_time_ns
        parsed = _parse_event(frame.raw)
        if parsed is None or parsed[1].e not in TRADE_STREAMS or parsed[1].T is None:
            continue
        trades.append((parsed[1].T, frame.receive_time_ns))
        if len(trades) == _HEAD_TRADES:
            break
    if not trades:
        return None if first_receive_ns is None else first_receive_ns // 10**6
    usual_ns = statistics.median_low(trade * 10**6 - receive for trade, receive in trades)
    return next(trade for trade, receive in trades if abs(trade * 10**6 - receive - usual_ns) <= PLAUSIBLE_SKEW_NS)
