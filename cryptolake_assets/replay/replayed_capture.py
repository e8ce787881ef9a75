"""The captures of all markets of a directory, replayed on one clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptolake_assets.captures.market_of_capture import captured_markets
from cryptolake_assets.captures.reader import CapturedFrame, read_market_frames, summarise
from cryptolake_assets.model.markets import Market
from cryptolake_assets.replay.replayed_clock import ReplayClock

DueFrame = tuple[int, Market, CapturedFrame]  # due exchange time in ns, market, frame


class ReplayedCapture:
    """The frames of a capture directory with their due times, and its clock."""

    def __init__(self, directory: Path, speed: float) -> None:
        """Read the capture once. Raises `CaptureError` if a file is damaged or a market is ambiguous."""
        self.directories: Mapping[Market, Path] = captured_markets(directory)
        self.summaries = {market: summarise(path) for market, path in self.directories.items()}
        self._directory = directory
        summaries = self.summaries.values()
        # The smallest offset with which no frame of any market precedes its event time.
        self._clock_offset_ns = max(summary.clock_offset_ns for summary in summaries)
        self.clock = ReplayClock(
            min(summary.first_receive_time_ns for summary in summaries) + self._clock_offset_ns,
            max(summary.last_receive_time_ns for summary in summaries) + self._clock_offset_ns,
            speed,
        )

    def frames(self) -> Iterator[DueFrame]:
        """Yield the frames of all markets; due times never decrease, even if the receive clock stepped back."""
        due_ns = 0
        for market, frame in read_market_frames(self.directories):
            due_ns = max(due_ns, frame.receive_time_ns + self._clock_offset_ns)
            yield due_ns, market, frame

    def describe(self) -> dict[str, Any]:
        """Return the directory with the bounds of all markets; times are epoch milliseconds."""
        summaries = self.summaries.values()
        return {
            "directory": str(self._directory),
            "first_event_time_ms": min(summary.first_event_time_ms for summary in summaries),
            "last_event_time_ms": max(summary.last_event_time_ms for summary in summaries),
            "frames_total": sum(summary.frame_count for summary in summaries),
        }

    def describe_market(self, market: Market) -> dict[str, Any]:
        """Return the bounds, symbols and trade streams of a market."""
        summary = self.summaries[market]
        return {
            "first_event_time_ms": summary.first_event_time_ms,
            "last_event_time_ms": summary.last_event_time_ms,
            "frames_total": summary.frame_count,
            "symbols": list(summary.symbols),
            "trade_streams": {symbol: list(streams) for symbol, streams in summary.trade_streams.items()},
        }
