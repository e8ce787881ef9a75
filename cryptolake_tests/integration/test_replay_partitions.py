"""Dagster's partitions of a replay, as its pages show them: they end with the capture and are reloaded with it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from cryptolake_assets.captures.tracked_symbols import store_last_archived_day
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.graphql import ask
from cryptolake_assets.platform.parts import CODE_SERVERS, DAGSTER_WEBSERVER
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.captures import trade_frame, write_capture
from cryptolake_tests.support.platforms import running, settings_for
from cryptolake_tests.support.waiting import wait_for

PARTS = [*(part.name for part in CODE_SERVERS), DAGSTER_WEBSERVER]
KEYS = '{ assetNodes(assetKeys: [{path: ["gold", "futures_daily_stats"]}]) { partitionKeys } }'


def days(settings: Settings) -> list[str]:
    (node,) = ask(settings, KEYS)["assetNodes"]
    return list(node["partitionKeys"])


def capture(directory: Path, *moments: datetime) -> Path:
    directory.mkdir()
    times = [round(moment.timestamp() * 1000) for moment in moments]
    frames = ((at * 10**6, trade_frame("币安人生USDT", number, at)) for number, at in enumerate(times))
    write_capture(directory / "a.ndjson", frames)
    return directory


def test_partitions_end_with_the_replayed_capture(tmp_path: Path) -> None:
    one = capture(tmp_path / "one", datetime(2025, 3, 1, 23, tzinfo=UTC), datetime(2025, 3, 2, 1, tzinfo=UTC))
    other = capture(tmp_path / "other", datetime(2025, 2, 10, tzinfo=UTC))
    settings = settings_for(tmp_path / "home", replay_dir=one, end_date=None)
    with running(settings, PARTS):
        assert days(settings) == ["2025-03-01", "2025-03-02"]
        replayed = settings.model_copy(update={"replay_dir": other})
        lifecycle.up(replayed, PARTS)
        wait_for(lambda: days(replayed) == ["2025-02-10"], timeout_s=60)

        store_last_archived_day(replayed, date(2025, 2, 12))
        assert lifecycle.reload_graph(replayed, date(2025, 2, 12)) == [part.name for part in CODE_SERVERS]
        wait_for(lambda: days(replayed) == ["2025-02-10", "2025-02-11", "2025-02-12"], timeout_s=60)
        assert lifecycle.reload_graph(replayed, date(2025, 2, 10)) == []
