"""Recorded snapshots of order books of a capture directory, for REST's `depth`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptolake_assets.captures.book_snapshots import read_snapshots
from cryptolake_assets.captures.reader import summarise
from cryptolake_assets.replay.recorded_store import Parameters, RecordedStore


class BookStore(RecordedStore):
    """Index of the snapshots in a directory by symbol and time."""

    _SCHEMA = "CREATE TABLE snapshots (symbol TEXT, time_ms INTEGER, body TEXT, PRIMARY KEY (symbol, time_ms));"
    _INSERT = "INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?)"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)

    def newest(self, symbol: str, until_ms: int) -> Any | None:
        """Return the body of the newest snapshot that was received until then; None if there is none."""
        rows = self._select(
            "SELECT body FROM snapshots WHERE symbol = ? AND time_ms <= ? ORDER BY time_ms DESC LIMIT 1",
            (symbol, until_ms),
        )
        return rows[0][0] if rows else None

    def _recorded(self) -> Iterator[Parameters]:
        offset_ns = summarise(self._directory).clock_offset_ns
        for snapshot in read_snapshots(self._directory):
            yield snapshot.symbol, (snapshot.receive_time_ns + offset_ns) // 10**6, snapshot.body
