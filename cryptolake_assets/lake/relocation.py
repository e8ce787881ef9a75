"""Moves a lake's files to another place: Iceberg's metadata names every file by its absolute path.

Rewritten are the metadata files (JSON), the manifest lists and manifests (Avro), and the SQLite catalog. Avro files are
rewritten record by record: a path is replaced, every other byte stays. Row-level deletes, which also name data files,
are not written by this project. Sources: Iceberg's table spec, Avro 1.12.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from cryptolake_assets.lake.bronze_files import local_path

CATALOG_PATHS: Final = {
    "iceberg_tables": ("metadata_location", "previous_metadata_location"),
    "iceberg_namespace_properties": ("property_value",),
}
"""Columns of the SQLite catalog that hold locations."""

_MANIFEST_LIST: Final = "manifest_path"
"""Only the records of a manifest list have this field."""
_SYNC_BYTES: Final = 16
_FIXED_BYTES: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}

Move = Callable[[str], str]


def relocate(warehouse: Path, catalog_db: Path, old: str, new: str) -> None:
    """Rewrite the lake whose files lie in `warehouse` from the location `old` to the location `new` (`file://…`).

    The files may lie anywhere meanwhile. A lake that is at `new` already is left as it is.
    """
    move = _move(old, new)
    avro_files = [path for path in warehouse.rglob("*.avro") if path.parent.name == "metadata"]
    lengths: dict[str, int] = {}
    lists = []
    for path in avro_files:
        header = _Header(path.read_bytes())
        if header.is_manifest_list:
            lists.append(path)
            continue
        path.write_bytes(_rewritten(header, move, {}))
        lengths[f"{local_path(new)}/{path.relative_to(warehouse)}"] = path.stat().st_size
    # A manifest list tells the length of each manifest, and readers rely on it.
    for path in lists:
        path.write_bytes(_rewritten(_Header(path.read_bytes()), move, lengths))
    for path in warehouse.rglob("*.metadata.json"):
        path.write_text(json.dumps(_moved(json.loads(path.read_text("utf-8")), move)), "utf-8")
    with closing(sqlite3.connect(catalog_db)) as connection, connection:
        for table, columns in CATALOG_PATHS.items():
            for column in columns:
                rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
                changes = [(move(text), text) for (text,) in rows if text is not None]
                connection.executemany(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", changes)


def _move(old: str, new: str) -> Move:
    """Return what replaces the place of a path, however the path is written: `file:///x`, `file:/x` or `/x`."""
    old_path, new_path = local_path(old), local_path(new)

    def move(text: str) -> str:
        path = local_path(text)
        if path != old_path and not path.startswith(f"{old_path}/"):
            return text
        return text[: len(text) - len(path)] + new_path + path[len(old_path) :]

    return move


def _moved(value: Any, move: Move) -> Any:
    if isinstance(value, str):
        return move(value)
    if isinstance(value, list):
        return [_moved(item, move) for item in value]
    if isinstance(value, dict):
        return {name: _moved(item, move) for name, item in value.items()}
    return value


class _Reader:
    """Avro's binary encoding, read from one buffer."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if count < 0 or self.position > len(self.data):
            raise ValueError("the Avro file ends early")
        return self.data[start : self.position]

    def number(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7

    def text(self) -> bytes:
        return self.take(self.number())


def _number(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(data: bytes) -> bytes:
    return _number(len(data)) + data


class _Header:
    """An Avro file: its schema and codec, the bytes of its header, and a reader that stands at its first block."""

    def __init__(self, data: bytes) -> None:
        self.reader = _Reader(data)
        if self.reader.take(4) != b"Obj\x01":
            raise ValueError("not an Avro file")
        entries: dict[bytes, bytes] = {}
        while count := self.reader.number():
            if count < 0:
                self.reader.number()
            for _ in range(abs(count)):
                name = self.reader.text()
                entries[name] = self.reader.text()
        self.sync = self.reader.take(_SYNC_BYTES)
        self.data = data[: self.reader.position]
        self.schema = json.loads(entries[b"avro.schema"])
        self.codec = entries.get(b"avro.codec", b"null").decode()

    @property
    def is_manifest_list(self) -> bool:
        return any(field["name"] == _MANIFEST_LIST for field in self.schema["fields"])


def _rewritten(header: _Header, move: Move, lengths: Mapping[str, int]) -> bytes:
    """Return the file with each path in its records replaced, and the lengths of manifests that changed."""
    from pyiceberg.avro.codecs import KNOWN_CODECS

    codec = KNOWN_CODECS[header.codec]  # type: ignore[index]
    out = [header.data]
    while header.reader.position < len(header.reader.data):
        count = header.reader.number()
        block = header.reader.text()
        if header.reader.take(_SYNC_BYTES) != header.sync:
            raise ValueError("a block of the Avro file is damaged")
        records = _Records(codec.decompress(block) if codec else block, move, lengths)
        content = b"".join(records.value(header.schema) for _ in range(count))
        packed = codec.compress(content)[0] if codec else content
        out += [_number(count), _text(packed), header.sync]
    return b"".join(out)


class _Records(_Reader):
    """Values of a schema as bytes, with the paths replaced."""

    def __init__(self, data: bytes, move: Move, lengths: Mapping[str, int]) -> None:
        super().__init__(data)
        self._move = move
        self._lengths = lengths
        self._named: dict[str, Any] = {}

    def value(self, schema: Any) -> bytes:
        if isinstance(schema, list):
            branch = self.number()
            return _number(branch) + self.value(schema[branch])
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(kind, dict | list):
            return self.value(kind)
        if kind in ("record", "fixed", "enum"):
            self._named[schema["name"]] = schema
        if kind in self._named and kind != "record":
            return self.value(self._named[kind])
        match kind:
            case "record":
                return self._record(schema)
            case "array":
                return self._blocks(lambda: self.value(schema["items"]))
            case "map":
                return self._blocks(lambda: _text(self.text()) + self.value(schema["values"]))
            case "int" | "long" | "enum":
                return _number(self.number())
            case "bytes":
                return _text(self.text())
            case "string":
                return _text(self._move(self.text().decode()).encode())
            case "fixed":
                return self.take(schema["size"])
        return self.take(_FIXED_BYTES[kind])

    def _record(self, schema: dict[str, Any]) -> bytes:
        parts = []
        length = None
        for field in schema["fields"]:
            part = self.value(field["type"])
            if field["name"] == _MANIFEST_LIST:
                length = self._lengths.get(local_path(_Reader(part).text().decode()))
            elif field["name"] == "manifest_length" and length is not None:
                part = _number(length)
            parts.append(part)
        return b"".join(parts)

    def _blocks(self, item: Callable[[], bytes]) -> bytes:
        out = []
        while count := self.number():
            if count < 0:
                self.number()
            out += [_number(abs(count)), *(item() for _ in range(abs(count)))]
        return b"".join([*out, _number(0)])
