"""Validate asset and partition of `cryptolake materialize` against the graph before a launch. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptolake_assets.errors import ArgumentError
from cryptolake_assets.model.nearest import did_you_mean

_FORMAT_LETTERS: Final = {"%Y": "YYYY", "%m": "MM", "%d": "DD", "%H": "HH", "%M": "MM"}


@dataclass(frozen=True)
class Partitions:
    """An asset's partition keys, oldest first, and their `strptime` format."""

    keys: Sequence[str]
    time_format: str


@dataclass(frozen=True)
class Target:
    """An asset of the graph: whether a run can materialize it, and its partitions, if any."""

    name: str
    is_materializable: bool
    partitions: Partitions | None

    def check(self, partition: str | None) -> None:
        """Raise `ArgumentError` if no run can materialize this partition (None: not given)."""
        if not self.is_materializable:
            raise ArgumentError("asset", f"{self.name} cannot be materialized. See its page in Dagster.")
        if self.partitions is None:
            if partition is not None:
                raise ArgumentError("--partition", f"{self.name} has no partitions. Omit --partition.")
        elif partition is None:
            raise ArgumentError("--partition", f"{self.name} requires a partition. {_range(self)}")
        elif problem := _problem(partition, self.partitions):
            raise ArgumentError("--partition", f"{partition or 'an empty value'} {problem}. {_range(self)}")


def run_name(asset: str, partition: str | None) -> str:
    """Return the display name of a partition's run (None: the asset has no partitions)."""
    return f"{asset} [{partition}]" if partition else asset


def unknown_asset(name: str, known: Collection[str]) -> ArgumentError:
    """Return the error for an unknown asset name, with suggestions."""
    hint = did_you_mean(name, known) or f"Assets: {', '.join(sorted(set(known)))}."
    return ArgumentError("asset", f"no asset is called {name}. {hint}")


def _problem(partition: str, partitions: Partitions) -> str:
    """Return the problem with a partition key; empty if it is one of the asset's keys."""
    keys, form = partitions.keys, partitions.time_format
    if partition in keys:
        return ""
    try:
        time = datetime.strptime(partition, form)
    except ValueError:
        return f"is not in the format {_readable_format(form)}"
    if not keys:
        return "is not a partition"
    if time < datetime.strptime(keys[0], form):
        return "is before the first partition"
    if time > datetime.strptime(keys[-1], form):
        return "is after the last partition"
    if time.strftime(form) in keys:
        return f"is not in the format {_readable_format(form)}"
    return "is within a partition, not its start"


def _range(target: Target) -> str:
    partitions = target.partitions
    if partitions is None or not partitions.keys:
        return "It has no partitions yet: the first one has not begun."
    keys = partitions.keys
    return f"Give one from {keys[0]} to {keys[-1]}, in the format {_readable_format(partitions.time_format)}."


def _readable_format(time_format: str) -> str:
    """Return a `strptime` format in readable form, such as YYYY-MM-DD."""
    for code, letters in _FORMAT_LETTERS.items():
        time_format = time_format.replace(code, letters)
    return time_format
