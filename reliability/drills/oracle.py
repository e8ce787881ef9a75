"""The oracle: compares Bronze, gap ledger, Silver, API and the platform's health with what the exchange emitted.

`watch` checks at any time what must always hold: a complete bar is exact. `settle` waits at a quiet point until
everything is stored, complete and healthy, without a manual step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import psutil

from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.bar_state import BarState
from cryptolake_assets.model.hostile_frames import FAR_ID
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.platform.status import problems
from reliability.drills.drilled_platform import DrilledPlatform
from reliability.drills.feed import FIRST_ID, BarKey
from reliability.page import BUSY_LOAD_PER_CORE

DEADLINE_S: Final = 300.0
POLL_S: Final = 2.0
SETTLED_AFTER_MS: Final = 5_000  # a minute counts as closed so long after its end: watermark grace and coverage
LOW_PRIORITY: Final = 10  # nice value


def machine_load() -> float:
    """Return the 1-minute load average without running programs of a low priority, which yield the cores."""
    others = psutil.process_iter(["nice", "status"])
    yielding: int = sum(
        one.info["nice"] >= LOW_PRIORITY and one.info["status"] == psutil.STATUS_RUNNING for one in others
    )
    return max(0.0, os.getloadavg()[0] - yielding)


def patience() -> float:
    """Return the factor of all deadlines: above 1 while other programs have the cores."""
    return max(1.0, machine_load() / (BUSY_LOAD_PER_CORE * (os.cpu_count() or 1)))


class BrokenPromiseError(Exception):
    """A promise that must hold at any time does not."""


@dataclass
class Compared:
    """Totals of all quiet points."""

    quiet_points: int = 0
    trades: int = 0
    bars: int = 0
    complete: int = 0


class Oracle:
    """Compares one platform with its feed."""

    def __init__(self, platform: DrilledPlatform, deadline_s: float = DEADLINE_S) -> None:
        self._platform = platform
        self._deadline_s = deadline_s
        self._first_minute_ms = round(platform.emitted.begins.timestamp() * 1000)
        self.compared = Compared()

    def watch(self) -> None:
        """Raise `BrokenPromiseError` if a complete bar differs from the emitted trades; skip what cannot be read."""
        try:
            bars = self._bars()
        except BrokenPromiseError:
            raise
        except Exception:  # a fault of the storage shows as an error of any library
            return
        self._check_complete_bars(bars)

    def settle(self, report: Callable[[str], None] = lambda _: None) -> float:
        """Wait until all promises hold for the trades emitted by now; return the seconds.

        Raises `BrokenPromiseError` when the deadline is exceeded, with the first unmet promise.
        """
        began = time.monotonic()
        status = self._platform.exchange_status()
        frames, clock_ms = int(status["frames_passed"]), int(status["clock_ms"])
        while True:
            unmet = self._first_unmet(frames, clock_ms)
            waited_s = time.monotonic() - began
            if not unmet:
                self._count(frames, clock_ms)
                return waited_s
            report(f"{waited_s:.0f} s: {unmet}")
            if waited_s > self._deadline_s * patience():
                raise BrokenPromiseError(f"not met within {self._deadline_s:.0f} s: {unmet}")
            time.sleep(POLL_S)

    def _first_unmet(self, frames: int, clock_ms: int) -> str:
        try:
            return next(self._unmet(frames, clock_ms), "")
        except BrokenPromiseError:
            raise
        except Exception as error:  # as in `watch`; it fails the promise only if it lasts
            return f"cannot be read: {error!r}"[:300]

    def _unmet(self, frames: int, clock_ms: int) -> Iterator[str]:
        """Yield the promises that are not met yet, the cheapest first."""
        yield from self._missing_trades(frames)
        if open_gaps := self._count_of(f"{self._platform.settings.tables.gaps.full_name} WHERE closed_at IS NULL"):
            yield f"{open_gaps} open gaps"
        bars = self._bars()
        self._check_complete_bars(bars)
        yield from self._unsettled_minutes(bars, clock_ms)
        yield from self._unserved_minutes(self._platform.served_bars(), clock_ms)
        yield from problems(self._platform.settings)

    def _missing_trades(self, frames: int) -> Iterator[str]:
        """Yield the symbols with trades that are not in Bronze. Raises `BrokenPromiseError` for trades never sent."""
        table = self._platform.settings.tables.trades.full_name
        for symbol, last_id in self._platform.emitted.last_ids(frames).items():
            where = f"symbol = '{symbol}' AND stream = 'aggTrade'"
            stored = run_sql(
                self._platform.settings,
                f"SELECT count(DISTINCT trade_id) FILTER (trade_id BETWEEN {FIRST_ID} AND {last_id}) AS stored, "
                f"min(trade_id) AS first, max(trade_id) AS last FROM {table} WHERE {where} AND trade_id < {FAR_ID}",
            ).to_pylist()[0]
            expected = last_id - FIRST_ID + 1
            if stored["stored"] < expected:
                yield f"{expected - stored['stored']} of {expected} trades of {symbol} are not in Bronze"
            self._check_bounds(symbol, where, stored)

    def _check_bounds(self, symbol: str, where: str, stored: dict[str, Any]) -> None:
        sent = self._platform.emitted.last_ids(int(self._platform.exchange_status()["frames_passed"]))[symbol]
        if not stored["first"] or FIRST_ID <= stored["first"] <= stored["last"] <= sent:
            return
        table = self._platform.settings.tables.trades.full_name
        unknown = run_sql(
            self._platform.settings,
            f"SELECT DISTINCT trade_id FROM {table} WHERE {where} AND trade_id < {FAR_ID} "
            f"AND NOT trade_id BETWEEN {FIRST_ID} AND {sent}",
        )["trade_id"].to_pylist()
        if never_sent := [number for number in unknown if (symbol, number) not in self._platform.allowance.ids]:
            raise BrokenPromiseError(f"Bronze has trades of {symbol} that were never sent: {never_sent[:5]}")

    def _bars(self) -> dict[BarKey, dict[str, Any]]:
        """Return Silver's bars by symbol and minute. Raises `BrokenPromiseError` for a duplicate key."""
        rows = run_sql(
            self._platform.settings, f"SELECT * FROM {self._platform.settings.tables.bars.full_name}"
        ).to_pylist()
        bars = {(row["symbol"], round(row["window_start"].timestamp() * 1000)): row for row in rows}
        if len(bars) < len(rows):
            raise BrokenPromiseError(f"{len(rows) - len(bars)} bars are duplicates of another one's key")
        return bars

    def _check_complete_bars(self, bars: dict[BarKey, dict[str, Any]]) -> None:
        for key, bar in bars.items():
            if bar["is_complete"] and (difference := self._difference(key, bar)):
                raise BrokenPromiseError(
                    f"the complete bar {_named(key)} differs from the emitted trades: {difference}"
                )

    def _difference(self, key: BarKey, bar: dict[str, Any]) -> str:
        """Return the first column that differs from the emitted trades; empty if the bar is exact."""
        exact = self._platform.emitted.bars.get(key)
        if exact is None:
            return "no trade was emitted"
        for name, value in exact.columns().items():
            if Decimal(bar[name]) != value:  # the API's prices are texts
                return f"{name} is {bar[name]}, emitted {value}"
        return ""

    def _closed_minutes(self, clock_ms: int) -> list[BarKey]:
        """Return the minutes with emitted trades that have ended, except the first: its begin was not watched."""
        last_ms = clock_ms - SETTLED_AFTER_MS - MINUTE_MS
        return [
            (symbol, start_ms)
            for symbol, start_ms in self._platform.emitted.bars
            if self._first_minute_ms < start_ms <= last_ms
            and (symbol, start_ms) not in self._platform.allowance.incomplete
        ]

    def _unsettled_minutes(self, bars: dict[BarKey, dict[str, Any]], clock_ms: int) -> Iterator[str]:
        for key in self._closed_minutes(clock_ms):
            bar = bars.get(key)
            if bar is None:
                yield f"Silver has no bar {_named(key)}"
            elif not bar["is_complete"]:
                yield f"the bar {_named(key)} is not complete ({self._difference(key, bar) or 'but exact'})"

    def _unserved_minutes(self, served: dict[BarKey, dict[str, Any]], clock_ms: int) -> Iterator[str]:
        """Yield closed minutes that the API does not serve as emitted, from Silver or from Kafka.

        Raises `BrokenPromiseError` for a final bar that differs, and for a bar of Kafka that differed from Silver's
        without a known cause.
        """
        for key, bar in served.items():
            if bar["state"] == BarState.FINAL and (difference := self._difference(key, bar)):
                raise BrokenPromiseError(f"the API's final bar {_named(key)} differs from the emitted: {difference}")
        if unexplained := self._platform.unexplained_bars():
            raise BrokenPromiseError(f"{unexplained} bars of the API differed from Silver's without a known cause")
        for key in self._closed_minutes(clock_ms):
            if key not in served:
                yield f"the API has no bar {_named(key)}"
            elif difference := self._difference(key, served[key]):
                yield f"the API's {served[key]['state']} bar {_named(key)} differs from the emitted: {difference}"

    def _count_of(self, source: str) -> int:
        return int(run_sql(self._platform.settings, f"SELECT count(*) AS n FROM {source}").to_pylist()[0]["n"])

    def _count(self, frames: int, clock_ms: int) -> None:
        self.compared.quiet_points += 1
        self.compared.trades = frames
        self.compared.bars = self.compared.complete = len(self._closed_minutes(clock_ms))


def _named(key: BarKey) -> str:
    return f"{key[0]} {time.strftime('%Y-%m-%d %H:%M', time.gmtime(key[1] / 1000))}"
