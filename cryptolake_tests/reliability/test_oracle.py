"""The drills' oracle on a real lake without a platform: what it waits for, and what it never accepts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from cryptolake_assets.captures.reader import read_frames
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.gap_ledger import IcebergGapSink, TradeGap
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.bronze import append, trade
from reliability.drills import oracle
from reliability.drills.drilled_platform import Allowance, DrilledPlatform
from reliability.drills.feed import FIRST_ID, BarKey, Emitted, Feed, write_feed
from reliability.drills.oracle import BrokenPromiseError, Oracle

BEGINS = datetime(2026, 5, 8, 10, tzinfo=UTC)
SECONDS = 200
FIRST_MINUTE = round(BEGINS.timestamp()) // 60
CLOSED = (1, 2)  # minutes that are closed at the feed's end, without the first


@dataclass
class StoredPlatform:
    """A platform of which only the lake and the exchange's clock exist."""

    settings: Settings
    emitted: Emitted
    allowance: Allowance = field(default_factory=Allowance)
    unserved: set[int] = field(default_factory=set)  # minutes from the begin
    served_changes: dict[str, Any] = field(default_factory=dict)
    unexplained: int = 0

    def served_bars(self) -> dict[BarKey, dict[str, Any]]:
        return {
            key: {
                **{name: str(value) for name, value in bar.columns().items()},
                "state": "final",
                **self.served_changes,
            }
            for key, bar in self.emitted.bars.items()
            if key[1] // MINUTE_MS - FIRST_MINUTE not in self.unserved
        }

    def unexplained_bars(self) -> int:
        return self.unexplained

    def exchange_status(self) -> dict[str, Any]:
        end = BEGINS + timedelta(seconds=SECONDS)
        return {"frames_passed": len(self.emitted.order), "clock_ms": round(end.timestamp() * 1000)}


@pytest.fixture
def platform(lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredPlatform:
    """A platform whose Bronze holds every emitted trade, and whose health is good."""
    emitted = write_feed(Feed(1, SECONDS, per_s=(3, 5), begins=BEGINS), tmp_path / "capture")
    monkeypatch.setattr(oracle, "problems", lambda _: [])
    monkeypatch.setattr(oracle, "POLL_S", 0.05)
    last = emitted.last_ids(len(emitted.order))
    append(lake, [stored(symbol, number) for symbol in last for number in range(FIRST_ID, last[symbol] + 1)])
    return StoredPlatform(lake, emitted)


def stored(symbol: str, number: int) -> dict[str, Any]:
    return trade(BEGINS, number, symbol=symbol, stream="aggTrade")


def publish(platform: StoredPlatform, *minutes: int, **changes: Any) -> None:
    """Append the exact bars of these minutes to Silver, complete, with changes."""
    rows = []
    for (symbol, start_ms), bar in platform.emitted.bars.items():
        start = datetime.fromtimestamp(start_ms / 1000, UTC)
        if (start - BEGINS) // timedelta(minutes=1) in minutes:
            key = {"exchange": "binance_futures", "symbol": symbol, "window_start": start, "stream": "aggTrade"}
            rows.append(
                {**key, **bar.columns(), "is_complete": True, "updated_at": start, "evidence": "ids", **changes}
            )
    table = load_table(platform.settings, platform.settings.tables.bars)
    table.append(pa.Table.from_pylist(rows, schema=platform.settings.tables.bars.arrow_schema()))


def settle(platform: StoredPlatform) -> Oracle:
    found = Oracle(cast(DrilledPlatform, platform), deadline_s=0.2)
    found.settle()
    return found


def test_everything_stored_and_complete_settles(platform: StoredPlatform) -> None:
    publish(platform, *CLOSED)
    compared = settle(platform).compared
    frames = sum(1 for _ in read_frames(platform.emitted.directory))
    assert (compared.quiet_points, compared.trades, compared.bars) == (1, frames, 4)


def test_missing_and_incomplete_bars_are_waited_for(platform: StoredPlatform) -> None:
    with pytest.raises(BrokenPromiseError, match="not met within 0 s: Silver has no bar"):
        settle(platform)
    publish(platform, 1)
    publish(platform, 2, is_complete=False)
    with pytest.raises(BrokenPromiseError, match=r"10:02 is not complete \(but exact\)"):
        settle(platform)


def test_missing_trades_are_waited_for(platform: StoredPlatform) -> None:
    publish(platform, *CLOSED)
    platform.emitted.order.append(0)
    with pytest.raises(BrokenPromiseError, match=r"1 of .* trades of BTCUSDT are not in Bronze"):
        settle(platform)


def test_open_gaps_and_problems_are_waited_for(platform: StoredPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(platform, *CLOSED)
    gap = TradeGap("binance_futures", "BTCUSDT", "aggTrade", 5, 9, 5, 1_000, 2_000, BEGINS)
    IcebergGapSink(platform.settings).write([gap])
    with pytest.raises(BrokenPromiseError, match="1 open gaps"):
        settle(platform)
    IcebergGapSink(platform.settings).write([replace(gap, closed_at=BEGINS)])
    settle(platform)
    monkeypatch.setattr(oracle, "problems", lambda _: ["api: failed"])
    with pytest.raises(BrokenPromiseError, match="api: failed"):
        settle(platform)


def test_trades_that_were_never_sent_break_a_promise(platform: StoredPlatform) -> None:
    publish(platform, *CLOSED)
    append(platform.settings, [stored("BTCUSDT", FIRST_ID - 7)])
    with pytest.raises(BrokenPromiseError, match=rf"never sent: \[{FIRST_ID - 7}\]"):
        settle(platform)
    platform.allowance.ids.add(("BTCUSDT", FIRST_ID - 7))
    settle(platform)


def test_complete_bar_that_differs_breaks_a_promise_at_once(platform: StoredPlatform) -> None:
    publish(platform, 1, close=Decimal("1"))
    with pytest.raises(BrokenPromiseError, match=r"complete bar .* 10:01 differs .*: close is 1.0"):
        Oracle(cast(DrilledPlatform, platform)).watch()


def test_the_api_serves_every_minute_as_emitted(platform: StoredPlatform) -> None:
    publish(platform, *CLOSED)
    platform.unserved = {2}
    with pytest.raises(BrokenPromiseError, match=r"the API has no bar .* 10:02"):
        settle(platform)
    platform.unserved = set()
    platform.served_changes = {"state": "provisional", "trades": 1}
    with pytest.raises(BrokenPromiseError, match=r"the API's provisional bar .* differs from the emitted: trades is 1"):
        settle(platform)
    platform.served_changes = {"close": "1"}
    with pytest.raises(BrokenPromiseError, match=r"the API's final bar .* differs from the emitted: close is 1"):
        settle(platform)
    platform.served_changes = {}
    platform.unexplained = 3
    with pytest.raises(BrokenPromiseError, match="3 bars of the API differed from Silver's"):
        settle(platform)


def test_duplicate_bar_breaks_a_promise(platform: StoredPlatform) -> None:
    publish(platform, *CLOSED)
    publish(platform, 2)
    with pytest.raises(BrokenPromiseError, match="2 bars are duplicates"):
        Oracle(cast(DrilledPlatform, platform)).watch()


def test_declared_minutes_may_stay_incomplete(platform: StoredPlatform) -> None:
    publish(platform, 1)
    platform.allowance.incomplete |= {key for key in platform.emitted.bars if key[1] % 3_600_000 == 120_000}
    assert settle(platform).compared.bars == 2
