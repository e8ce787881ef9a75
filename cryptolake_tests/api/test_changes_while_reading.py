"""Responses while tables are expired, rewritten, dropped or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from cryptolake_assets.lake.bronze_files import local_path
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.maintenance import expiry
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import Api, bar, put, serving, starts

PAGE = "/ohlcv/1m?symbol=BTCUSDT&limit=2"


def rewrite_and_expire(lake: Settings) -> None:
    """Change the close of every bar and expire all earlier snapshots."""
    for day in range(3):
        of_day = starts()[4 * day : 4 * day + 4]
        put(lake, [bar("BTCUSDT", start, close=Decimal(77)) for start in of_day])
    table = load_table(lake, FUTURES.bars)
    head = table.metadata.current_snapshot_id
    expiry.expire(table, lambda now: [item.snapshot_id for item in now.metadata.snapshots if item.snapshot_id != head])


@pytest.fixture
def stale(bars: Settings) -> Iterator[Api]:
    """Serve an API that has read the catalog once and does not refresh it during the test."""
    with serving(bars, api_refresh_s=60) as made:
        yield made


def test_page_is_read_again_after_its_snapshot_expired(stale: Api, bars: Settings) -> None:
    rewrite_and_expire(bars)
    response = stale.get(PAGE)
    assert (response.status_code, response.json()["bars"][0]["close"]) == (200, "77.00000000")
    assert response.json()["snapshot_id"] == str(load_table(bars, FUTURES.bars).metadata.current_snapshot_id)


def test_pages_continue_after_the_first_ones_snapshot_expired(stale: Api, bars: Settings) -> None:
    first = stale.get(PAGE).json()
    rewrite_and_expire(bars)
    second = stale.get(f"{PAGE}&cursor={first['next_cursor']}")
    assert [item["window_start"][11:16] for item in second.json()["bars"]] == ["00:02", "00:03"]
    assert second.json()["snapshot_id"] != first["snapshot_id"]


def test_expired_snapshot_is_404(stale: Api, bars: Settings) -> None:
    snapshot_id = load_table(bars, FUTURES.bars).metadata.current_snapshot_id
    rewrite_and_expire(bars)
    response = stale.get(f"{PAGE}&as_of={snapshot_id}")
    assert (response.status_code, response.json()["type"]) == (404, "urn:cryptolake:problem:unknown-snapshot")


def test_dropped_table_is_503(stale: Api, bars: Settings) -> None:
    assert stale.get("/stats/daily").status_code == 200
    get_catalog(bars).drop_table(FUTURES.daily.identifier)
    stale.refresh()
    response = stale.get("/stats/daily")
    assert (response.status_code, response.json()["type"]) == (503, "urn:cryptolake:problem:missing-table")


def test_table_with_missing_files_is_503(stale: Api, bars: Settings) -> None:
    for task in load_table(bars, FUTURES.bars).scan().plan_files():
        Path(local_path(task.file.file_path)).unlink()
    response = stale.get(PAGE)
    assert (response.status_code, response.json()["type"]) == (503, "urn:cryptolake:problem:unreadable-table")
    assert str(bars.home) not in response.text


def test_damaged_table_does_not_affect_others(api: Api, bars: Settings) -> None:
    assert api.get("/stats/daily").status_code == 200
    gold = load_table(bars, FUTURES.daily)
    with gold.transaction() as change:
        change.set_properties({"a": "b"})
    Path(local_path(load_table(bars, FUTURES.daily).metadata_location)).unlink()
    put(bars, [bar("BTCUSDT", starts()[0], close=Decimal(77))])
    api.refresh()
    assert api.get(PAGE).json()["bars"][0]["close"] == "77.00000000"
    response = api.get("/stats/daily")
    assert (response.status_code, response.json()["type"]) == (503, "urn:cryptolake:problem:unreadable-table")


def test_pages_as_of_a_future_time_use_one_snapshot(api: Api, bars: Settings) -> None:
    later = int((datetime.now(UTC) + timedelta(hours=1)).timestamp() * 1000)
    first = api.get(f"{PAGE}&as_of={later}").json()
    put(bars, [bar("BTCUSDT", starts()[2], close=Decimal(77))])
    api.refresh()
    second = api.get(f"{PAGE}&as_of={later}&cursor={first['next_cursor']}").json()
    assert second["snapshot_id"] == first["snapshot_id"]


def test_cursor_of_a_later_snapshot_is_rejected_with_as_of(api: Api, bars: Settings) -> None:
    before = load_table(bars, FUTURES.bars).current_snapshot()
    assert before is not None
    put(bars, [bar("BTCUSDT", starts()[0], close=Decimal(77))])
    api.refresh()
    cursor = api.get(PAGE).json()["next_cursor"]
    for as_of in (before.snapshot_id, before.timestamp_ms):
        rejected = api.get(f"{PAGE}&as_of={as_of}&cursor={cursor}")
        assert (rejected.status_code, rejected.json()["title"]) == (400, "Cursor of another request")
        first = api.get(f"{PAGE}&as_of={as_of}").json()
        response = api.get(f"{PAGE}&as_of={as_of}&cursor={first['next_cursor']}").json()
        assert response["snapshot_id"] == str(before.snapshot_id)
