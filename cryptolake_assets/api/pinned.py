"""Tables at the snapshots that a response is read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from cryptolake_assets.api import problems
from cryptolake_assets.lake.table_cache import Identifier

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

MAX_SNAPSHOT_MS = 10**14  # a larger integer is a snapshot id, not a time


@dataclass(frozen=True)
class PinnedTable:
    """A table at a snapshot; None while it is empty."""

    identifier: Identifier
    table: Table
    snapshot_id: int | None


def newest(states: Sequence[PinnedTable]) -> int | None:
    """Return the newest snapshot, which identifies all of the states; None while the tables are empty."""
    ids = [state.snapshot_id for state in states if state.snapshot_id is not None]
    if len(ids) < 2:
        return next(iter(ids), None)
    found = [snapshot for snapshot_id in ids if (snapshot := snapshot_of(states, snapshot_id))]
    return max(found, key=lambda snapshot: snapshot.timestamp_ms).snapshot_id


def as_of_states(current: Sequence[PinnedTable], as_of: int | datetime | None) -> list[PinnedTable]:
    """Return the states selected by `as_of`; without it, the current ones.

    The id of a snapshot selects those of the other tables at its time. An integer that is no snapshot id is epoch ms.
    Raises a problem if no table has such a snapshot.
    """
    if as_of is None:
        return list(current)
    named = snapshot_of(current, as_of) if isinstance(as_of, int) else None
    time_ms = epoch_ms(as_of) if named is None else named.timestamp_ms
    found = []
    for state in current:
        is_named = named is not None and state.table.snapshot_by_id(named.snapshot_id) is not None
        snapshot = named if is_named else state.table.snapshot_as_of_timestamp(time_ms)
        found.append(replace(state, snapshot_id=None if snapshot is None else snapshot.snapshot_id))
    if all(state.snapshot_id is None for state in found) or (
        named is None and isinstance(as_of, int) and as_of > MAX_SNAPSHOT_MS
    ):
        raise problems.unknown_snapshot()
    return found


def snapshot_of(states: Sequence[PinnedTable], snapshot_id: int) -> Snapshot | None:
    """Return a snapshot of one of the tables; None if none has it."""
    return next((found for state in states if (found := state.table.snapshot_by_id(snapshot_id))), None)


def epoch_ms(as_of: int | datetime) -> int:
    """Return a time in epoch ms, as the catalog stores it; integers are epoch ms already."""
    return as_of if isinstance(as_of, int) else round(as_of.timestamp() * 1000)
