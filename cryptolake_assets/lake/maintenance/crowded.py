"""Find the partitions with several data files, without listing the history.

A partition gets another file only by a commit, and a commit adds manifests. So it suffices to read the manifests that
are newer than the last look, and again those of the partitions that had several files then. What was found is kept
next to the tables; without it, one look reads all manifests.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from cryptolake_assets.lake.bronze_files import current_sequence
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.files import read_text, write_text
from cryptolake_assets.lake.maintenance.layout import (
    LiveFile,
    Partition,
    count_small,
    live_files,
    manifests,
    overlapping,
)
from cryptolake_assets.lake.marts import marts_tables
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.settings import Settings

if TYPE_CHECKING:
    from pyiceberg.table import Table


def crowded_files(settings: Settings, table: Table) -> list[LiveFile]:
    """Return the live files of every partition that holds several.

    Cost: the manifest list, the manifests written since the last call, and those of crowded partitions.
    """
    location = f"{settings.warehouse_location}/_maintenance/{'.'.join(table.name())}.json"
    sequence = current_sequence(table)
    seen, crowded = _last_look(read_text(settings, location), table, sequence)
    everything = manifests(table)
    new = [manifest for manifest in everything if manifest.sequence_number > seen]
    files = live_files(table, new)
    touched = {file.partition for file in files} | crowded
    old = [manifest for manifest in everything if manifest.sequence_number <= seen]
    files += [file for file in live_files(table, overlapping(table, old, touched)) if file.partition in touched]
    numbers = Counter(file.partition for file in files)
    found = {partition for partition, number in numbers.items() if number > 1}
    if sequence != seen:
        look = {"table": str(table.metadata.table_uuid), "sequence": sequence, "partitions": sorted(found)}
        write_text(settings, location, json.dumps(look))
    return [file for file in files if file.partition in found]


def _last_look(text: str | None, table: Table, sequence: int) -> tuple[int, set[Partition]]:
    """Return the sequence number and the crowded partitions of the last look; 0 and none without a valid one."""
    try:
        look = json.loads(text or "")
        if look["table"] == str(table.metadata.table_uuid) and look["sequence"] <= sequence:
            return look["sequence"], set(map(tuple, look["partitions"]))
    except (ValueError, TypeError, KeyError):
        pass
    return 0, set()


def small_files(settings: Settings) -> dict[str, int]:
    """Return the number of small files per table, by full name."""
    return {
        spec.full_name: count_small(crowded_files(settings, load_table(settings, spec)), settings.small_file_bytes)
        for spec in (*TABLES, *marts_tables(settings))
    }
