"""Caches of pure conversions in PyIceberg, which would take most of a seed's time: schemas of Avro files, their readers
and copies of unchanged metadata. No access to catalog or files is saved, so the points stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

MAX_ENTRIES: Final = 2_000


class _ByIdentity:
    """A cache by the identity of the arguments, which it keeps alive."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._found: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, *arguments: Any) -> Any:
        key = tuple(map(self._key, arguments))
        if key not in self._found:
            if len(self._found) > MAX_ENTRIES:
                self._found.clear()
            self._found[key] = self._function(*arguments), arguments
        return self._found[key][0]

    @staticmethod
    def _key(argument: Any) -> Any:
        if isinstance(argument, dict):
            return tuple((name, id(value)) for name, value in argument.items())
        return tuple(map(id, argument)) if isinstance(argument, tuple) else id(argument)


@contextmanager
def cached() -> Iterator[None]:
    """Put the caches in place."""
    from pyiceberg.avro import file as avro_file
    from pyiceberg.avro.resolver import construct_reader, resolve_reader
    from pyiceberg.table import Transaction
    from pyiceberg.table.update import update_table_metadata

    real_schema = avro_file.AvroFileHeader.get_schema
    schemas: dict[str, Any] = {}

    def schema_of(self: Any) -> Any:
        text = self.meta["avro.schema"]
        if text not in schemas:
            schemas[text] = real_schema(self)
        return schemas[text]

    updated = _ByIdentity(update_table_metadata)

    def metadata_of(self: Any) -> Any:
        return updated(self._table.metadata, self._updates) if self._updates else self._table.metadata

    with ExitStack() as stack:
        for target, name, value in (
            (avro_file.AvroFileHeader, "get_schema", schema_of),
            (avro_file, "resolve_reader", _ByIdentity(resolve_reader)),
            (avro_file, "construct_reader", _ByIdentity(construct_reader)),
            (Transaction, "table_metadata", property(metadata_of)),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield
