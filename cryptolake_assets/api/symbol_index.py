"""Index of the symbols in a table of bars, with their time spans. Data files are immutable, so each is read once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyiceberg.table import Table

THREADS = 2

Topic = tuple[str, str]  # exchange and symbol


@dataclass(frozen=True)
class Span:
    """The bars of one symbol: first and last open time, and number."""

    first: datetime
    last: datetime
    bars: int


Spans = Mapping[Topic, Span]


class SymbolIndex:
    """Spans by exchange and symbol, cached per data file. Thread-safe."""

    def __init__(self) -> None:
        self._by_file: dict[str, Spans] = {}
        self._snapshot: int | None = None
        self._spans: Spans = {}
        self._lock = threading.Lock()

    def is_known(self, topic: Topic) -> bool:
        """Return whether the last read snapshot has bars of the symbol; never blocks."""
        return topic in self._spans

    def spans_as_of(self, table: Table, snapshot_id: int | None) -> Spans:
        """Return the spans of a snapshot. Reads only files that the current snapshot no longer has."""
        if snapshot_id == table.metadata.current_snapshot_id:
            return self.spans(table)
        if snapshot_id is None:
            return {}
        with self._lock:
            known = dict(self._by_file)
        paths = [task.file.file_path for task in table.scan(snapshot_id=snapshot_id).plan_files()]
        return _joined(_read_all(table, paths, known).values())

    def spans(self, table: Table) -> Spans:
        """Return the spans of the current snapshot. Reads only files added since the last call."""
        snapshot_id = table.metadata.current_snapshot_id
        with self._lock:
            if snapshot_id is None:
                return {}
            if snapshot_id != self._snapshot:
                paths = [task.file.file_path for task in table.scan().plan_files()]
                self._by_file = _read_all(table, paths, self._by_file)
                self._spans = _joined(self._by_file.values())
                self._snapshot = snapshot_id
            return self._spans


def _read_all(table: Table, paths: Sequence[str], known: Mapping[str, Spans]) -> dict[str, Spans]:
    """Return the spans of these files; read only the files missing in `known`."""
    missing = [path for path in paths if path not in known]
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(missing, pool.map(lambda path: _read(table, path), missing), strict=True))
    return {path: found[path] if path in found else known[path] for path in paths}


def _read(table: Table, path: str) -> Spans:
    from pyarrow import parquet

    with table.io.new_input(path).open() as opened:
        file = parquet.ParquetFile(opened)
        if "exchange" not in file.schema_arrow.names:
            return {}  # of a snapshot from before the bars had an exchange
        rows = file.read(columns=["exchange", "symbol", "window_start"])
    grouped = rows.group_by(["exchange", "symbol"]).aggregate(
        [("window_start", "min"), ("window_start", "max"), ("window_start", "count")]
    )
    return {
        (row["exchange"], row["symbol"]): Span(
            row["window_start_min"], row["window_start_max"], row["window_start_count"]
        )
        for row in grouped.to_pylist()
    }


def _joined(parts: object) -> Spans:
    spans: dict[Topic, Span] = {}
    for part in parts:  # type: ignore[attr-defined]
        for topic, span in part.items():
            known = spans.get(topic, Span(span.first, span.last, 0))
            spans[topic] = Span(min(known.first, span.first), max(known.last, span.last), known.bars + span.bars)
    return dict(sorted(spans.items()))
