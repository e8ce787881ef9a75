"""What was recorded in a capture's directory, in a temporary SQLite file: findable, and memory stays bounded."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Parameters = tuple[str | int, ...]


class RecordedStore:
    """One table, filled on first use. All methods block and may be called from any thread; those that read raise
    `CaptureError` when a file is damaged."""

    _SCHEMA: str
    _INSERT: str
    """Of rows that are not there yet: the first one of a key wins."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _recorded(self) -> Iterable[Parameters]:
        """The rows to hold; of several with one key the first."""
        raise NotImplementedError

    def _select(self, query: str, parameters: Parameters) -> list[Any]:
        with self._lock:
            if self._database is None:
                self._database = self._load()
            return self._database.execute(query, parameters).fetchall()

    def _load(self) -> sqlite3.Connection:
        database = sqlite3.connect("", check_same_thread=False)  # "" is SQLite's own temporary file
        try:
            database.executescript(self._SCHEMA)
            database.executemany(self._INSERT, self._recorded())
            database.commit()
        except BaseException:
            database.close()
            raise
        return database
