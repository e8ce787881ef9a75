"""Index of the symbols in a table of bars, with their time spans. Data files are immutable, so each is read once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cryptolake_assets.lake.maintenance.layout import live_entries, manifests

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table

THREADS = 2
CHANGED_FILES = 8  # files of changed manifests that each refresh may unite again

Topic = tuple[str, str]  # exchange and symbol


@dataclass(frozen=True)
class Span:
    """The bars of one symbol: first and last open time, and number."""

    first: datetime
    last: datetime
    bars: int


Spans = Mapping[Topic, Span]


class SymbolIndex:
    """Spans by exchange and symbol, cached per data file. Thread-safe.

    A refresh costs what changed: the manifests that two snapshots share, and the union of their files, are kept.
    """

    def __init__(self) -> None:
        self._by_file: dict[str, Spans] = {}
        self._files: dict[str, Sequence[str]] = {}  # by manifest
        self._kept: frozenset[str] = frozenset()  # manifests whose spans are united in `_kept_spans`
        self._kept_spans: Spans = {}
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
                self._refresh(table)
                self._snapshot = snapshot_id
            return self._spans

    def _refresh(self, table: Table) -> None:
        before = self._files
        self._files = {
            manifest.manifest_path: before.get(manifest.manifest_path) or _paths(table, manifest)
            for manifest in manifests(table)
        }
        paths = [path for found in self._files.values() for path in found]
        self._by_file = _read_all(table, paths, self._by_file)
        changed = self._files.keys() - self._kept
        if not self._kept <= self._files.keys() or sum(len(self._files[name]) for name in changed) > CHANGED_FILES:
            self._kept = frozenset(self._files.keys() & before.keys())
            self._kept_spans = _joined(self._of(self._kept))
            changed = self._files.keys() - self._kept
        self._spans = _joined([self._kept_spans, *self._of(changed)])

    def _of(self, names: Iterable[str]) -> list[Spans]:
        """Return the spans of the manifests' files."""
        return [self._by_file[path] for name in names for path in self._files[name]]


def _paths(table: Table, manifest: ManifestFile) -> list[str]:
    return [entry.data_file.file_path for entry in live_entries(table, manifest)]


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


def _joined(parts: Iterable[Spans]) -> Spans:
    spans: dict[Topic, Span] = {}
    for part in parts:
        for topic, span in part.items():
            known = spans.get(topic, Span(span.first, span.last, 0))
            spans[topic] = Span(min(known.first, span.first), max(known.last, span.last), known.bars + span.bars)
    return dict(sorted(spans.items()))
