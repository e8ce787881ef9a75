"""REST snapshots in captures: with a stream name, bare with a symbol, and bare without one."""

from __future__ import annotations

import json
from pathlib import Path

from cryptolake_assets.captures.book_snapshots import RecordedSnapshot, read_snapshots, snapshot_frame
from cryptolake_tests.support.captures import depth_frame, write_capture

BODY = '{"lastUpdateId":%d,"bids":[["1.5","2"]],"asks":[]}'


def test_bare_snapshot_belongs_to_the_only_symbol(tmp_path: Path) -> None:
    body = BODY % 7
    write_capture(tmp_path / "a.ndjson", [(10**18, body), (10**18 + 1, depth_frame("BTCUSDT", 100, 109, 0))])
    assert list(read_snapshots(tmp_path)) == [RecordedSnapshot("BTCUSDT", 10**18, body)]


def test_bare_snapshot_belongs_to_the_symbol_whose_update_has_its_id(tmp_path: Path) -> None:
    frames = [
        depth_frame("BTCUSDT", 100, 109, 0),
        BODY % 25,
        BODY % 104,
        BODY % 999,  # of neither
        depth_frame("ETHUSDT", 20, 29, 0),
    ]
    write_capture(tmp_path / "a.ndjson", ((10**18 + number, raw) for number, raw in enumerate(frames)))
    found = [(snapshot.symbol, json.loads(snapshot.body)["lastUpdateId"]) for snapshot in read_snapshots(tmp_path)]
    assert found == [("ETHUSDT", 25), ("BTCUSDT", 104)]


def test_snapshot_with_its_symbol_or_stream_needs_no_updates(tmp_path: Path) -> None:
    named = '{"lastUpdateId":5,"symbol":"BTCUSD_PERP","pair":"BTCUSD","bids":[],"asks":[]}'
    body = BODY % 6
    written = snapshot_frame("BTCUSDT", body.encode()).decode()
    assert written == f'{{"stream":"btcusdt@depthSnapshot","data":{body}}}'
    write_capture(tmp_path / "a.ndjson", [(10**18, named), (10**18 + 1, written), (10**18 + 2, '{"lastUpdateId":')])
    assert list(read_snapshots(tmp_path)) == [
        RecordedSnapshot("BTCUSD_PERP", 10**18, named),
        RecordedSnapshot("BTCUSDT", 10**18 + 1, body),
    ]
