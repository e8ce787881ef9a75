"""The offsets that a table contains: each publication sets those of its hours and keeps the others."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptolake_assets.lake import commit
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.contained_offsets import KEPT, contained_offsets, property_with
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.settings import Settings

NOON = datetime(2024, 7, 18, 12, tzinfo=UTC)


def test_each_publication_sets_its_hours_and_keeps_recent_others(lake: Settings) -> None:
    table = load_table(lake, FUTURES.bars)
    later = NOON + KEPT + HOUR
    assert contained_offsets(table) == {}
    for hours, offsets in (
        ([NOON, NOON + HOUR], {0: 5, 1: 7}),
        ([NOON + HOUR], {0: 9}),
        ([later], {0: 11}),
    ):
        commit.set_properties(table, property_with(table, hours, offsets))
    assert contained_offsets(load_table(lake, FUTURES.bars)) == {NOON + HOUR: {0: 9}, later: {0: 11}}


def test_no_hours_leave_the_property_empty(lake: Settings) -> None:
    table = load_table(lake, FUTURES.bars)
    commit.set_properties(table, property_with(table, [], {0: 1}))
    assert contained_offsets(table) == {}
