"""An index of recorded rows of a capture directory, in a temporary SQLite file to bound memory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Parameters = tuple[str | int, ...]


class RecordedStore:
    """One table, filled on first use.

    All methods block and are thread-safe; reading methods raise `CaptureError` if a file is damaged.
    """

    _SCHEMA: str
    _INSERT: str  # must ignore rows with an existing key, so that the first one is stored

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
        """Yield the rows to store; only the first one per key is stored."""
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
