"""The last publication of each hour: a publication sets its hours, keeps the others, and never replaces a newer one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cryptolake_assets.errors import PublishedMeanwhileError
from cryptolake_assets.lake import commit
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.published_hours import (
    KEPT,
    PublishedHour,
    contained_offsets,
    property_with,
    published_hours,
)
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
        ([], {0: 12}),
    ):
        published = PublishedHour("run", offsets)
        commit.set_properties(table, property_with(table, hours, published, published_hours(table)))
    assert contained_offsets(load_table(lake, FUTURES.bars)) == {NOON + HOUR: {0: 9}, later: {0: 11}}


def test_an_hour_that_another_run_published_meanwhile_stays(lake: Settings) -> None:
    table = load_table(lake, FUTURES.bars)
    known = published_hours(table)
    commit.set_properties(table, property_with(table, [NOON], PublishedHour("fast", {0: 9}), known))
    with pytest.raises(PublishedMeanwhileError, match="12:00 was published by run fast after"):
        property_with(table, [NOON], PublishedHour("slow", {0: 5}), known)
    assert property_with(table, [NOON + HOUR], PublishedHour("slow", {0: 5}), known), "another hour"


def test_an_hour_whose_publication_is_no_longer_kept_can_be_published(lake: Settings) -> None:
    table = load_table(lake, FUTURES.bars)
    commit.set_properties(table, property_with(table, [NOON], PublishedHour("first", {0: 9}), {}))
    known = published_hours(table)
    commit.set_properties(table, property_with(table, [NOON + KEPT + HOUR], PublishedHour("later", {0: 9}), known))
    assert property_with(table, [NOON], PublishedHour("again", {0: 9}), known)
