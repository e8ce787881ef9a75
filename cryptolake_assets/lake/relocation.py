"""Move a lake to another location: Iceberg's metadata names every file by its absolute path.

It rewrites the metadata files (JSON), the manifest lists and manifests (Avro, with PyIceberg's reader and writer), and
the SQLite catalog. Row-level deletes, which also name data files, are not handled: this project writes none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from cryptolake_assets.lake.bronze_files import local_path

# Columns of the SQLite catalog that hold locations.
CATALOG_PATHS: Final = {
    "iceberg_tables": ("metadata_location", "previous_metadata_location"),
    "iceberg_namespace_properties": ("property_value",),
}

Move = Callable[[str], str]


def relocate(warehouse: Path, catalog_db: Path, old: str, new: str) -> None:
    """Rewrite the lake in the directory `warehouse` from the location `old` to the location `new` (`file://…`).

    The files may be in any directory meanwhile. A lake whose metadata already names `new` is not changed.
    """
    move = _move(old, new)
    lengths: dict[str, int] = {}
    # Manifest lists (`snap-…`) last: they hold the length of each manifest, and readers rely on it.
    for path in sorted(warehouse.rglob("metadata/*.avro"), key=lambda path: path.name.startswith("snap-")):
        _rewrite(path, move, lengths)
        lengths[f"{local_path(new)}/{path.relative_to(warehouse)}"] = path.stat().st_size
    for path in warehouse.rglob("*.metadata.json"):
        path.write_text(json.dumps(_moved(json.loads(path.read_text("utf-8")), move)), "utf-8")
    with closing(sqlite3.connect(catalog_db)) as connection, connection:
        for table, columns in CATALOG_PATHS.items():
            for column in columns:
                rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
                changes = [(move(text), text) for (text,) in rows if text is not None]
                connection.executemany(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", changes)


def _move(old: str, new: str) -> Move:
    """Return a function that replaces the location in a path, written as `file:///x`, `file:/x` or `/x`."""
    old_path, new_path = local_path(old), local_path(new)

    def move(text: str) -> str:
        path = local_path(text)
        if path != old_path and not path.startswith(f"{old_path}/"):
            return text
        return text[: len(text) - len(path)] + new_path + path[len(old_path) :]

    return move


def _rewrite(path: Path, move: Move, lengths: Mapping[str, int]) -> None:
    """Rewrite a manifest or a manifest list with replaced paths and changed manifest lengths."""
    from pyiceberg.avro.file import AvroFile, AvroOutputFile
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.typedef import Record

    with AvroFile[Record](PyArrowFileIO().new_input(str(path))) as file:
        records = [_moved(record, move) for record in file]
    names = [field.name for field in file.schema.fields]
    is_list = "manifest_path" in names
    if is_list:
        at_path, at_length = names.index("manifest_path"), names.index("manifest_length")
        for record in records:
            record[at_length] = lengths.get(local_path(record[at_path]), record[at_length])
    output, name = PyArrowFileIO().new_output(str(path)), "manifest_file" if is_list else "manifest_entry"
    with AvroOutputFile[Record](output, file.schema, name, metadata=file.header.meta) as out:
        out.write_block(records)


def _moved(value: Any, move: Move) -> Any:
    """Return a JSON or Avro value with the paths in it replaced."""
    from pyiceberg.typedef import Record

    if isinstance(value, str):
        return move(value)
    if isinstance(value, list):
        return [_moved(item, move) for item in value]
    if isinstance(value, Record):
        return Record(*(_moved(value[place], move) for place in range(len(value))))
    if isinstance(value, dict):
        return {name: _moved(item, move) for name, item in value.items()}
    return value
