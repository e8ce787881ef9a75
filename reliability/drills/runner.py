"""Runs the rounds of a drill: faults at their times, probes of their recovery, then a quiet point with the oracle."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from reliability import results
from reliability.drills.actions import Action, Fault, Round, rounds_text
from reliability.drills.drilled_platform import DrilledPlatform
from reliability.drills.oracle import BrokenPromiseError, Oracle, machine_load, patience
from reliability.drills.states import LogReader, reached
from reliability.page import record

PROBE_S: Final = 0.5
RECOVERY_LIMIT_S: Final = 300.0
WATCH_S: Final = 10.0
Report = Callable[[str], None]


@dataclass
class Drilled:
    """A fault that is running or has run; times are seconds of `time.monotonic`."""

    fault: Fault
    state: str = "waiting"
    load: float = 0.0  # 1-minute load average at its begin
    began: float = 0.0
    ended: float = 0.0
    recovered_s: float | None = None
    error: str = ""
    last_probe: str = "the probe was false"

    @property
    def lasted_s(self) -> float:
        return max(0.0, self.ended - self.began)

    def __str__(self) -> str:
        since = {"active": self.began, "recovering": self.ended}.get(self.state)
        passed = f" {self.recovered_s:.0f} s" if self.recovered_s is not None else ""
        passed = f" {time.monotonic() - since:.0f} s" if since else passed
        return f"{self.fault.action} {self.fault.part}".strip() + f" {self.state}{passed}"


@dataclass
class Drill:
    """One run on a started platform."""

    platform: DrilledPlatform
    actions: Mapping[str, Action]
    oracle: Oracle
    report: Report
    logs: LogReader
    on_fault: Callable[[Drilled, Iterable[Drilled]], None] = lambda *_: None  # after a round, with all of its faults
    show: Report = lambda _: None  # the state of the running faults, twice a second
    recovery_limit_s: float = RECOVERY_LIMIT_S
    states: Counter[str] = field(default_factory=Counter)
    rounds: list[Round] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def run(self, rounds: Iterator[Round]) -> None:
        """Run rounds until there are no more, or until a promise is broken, which is added to `violations`."""
        try:
            self._settle()
            for faults in rounds:
                self.rounds.append(faults)
                self._run_round(faults)
        except BrokenPromiseError as error:
            self.violations.append(str(error))
        finally:
            self._count_states()

    def _run_round(self, faults: Round) -> None:
        self.report(f"round {len(self.rounds)}: {rounds_text([faults])}")
        drilled = [Drilled(fault) for fault in faults]
        threads = [
            threading.Thread(target=self._run_fault, args=(one, time.monotonic()), name=str(one.fault), daemon=True)
            for one in drilled
        ]
        for thread in threads:
            thread.start()
        try:
            self._watch_until(threads, drilled)
            if failed := [one for one in drilled if one.error]:
                raise BrokenPromiseError(f"{failed[0].fault}: {failed[0].error}")
            settled_s = self._settle()
            if late := [one for one in drilled if one.recovered_s is None]:
                raise BrokenPromiseError(
                    f"{late[0].fault}: not recovered within {self.recovery_limit_s:.0f} s ({late[0].last_probe})"
                )
            self.report(f"round {len(self.rounds)}: settled in {settled_s:.0f} s")
        finally:
            if not isinstance(sys.exception(), KeyboardInterrupt | SystemExit):  # else the recoveries are cut short
                for one in drilled:
                    self.on_fault(one, drilled)
        for one in drilled:
            self.platform.capabilities |= self.actions[one.fault.action].gives

    def _watch_until(self, threads: list[threading.Thread], drilled: list[Drilled]) -> None:
        """Check complete bars until the threads have ended."""
        watched = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() - watched > WATCH_S:
                self.oracle.watch()
                watched = time.monotonic()
            self.show(f"round {len(self.rounds)}: {', '.join(map(str, drilled))}")
            time.sleep(PROBE_S)

    def _run_fault(self, one: Drilled, round_began: float) -> None:
        action, given = self.actions[one.fault.action], one.fault.given
        try:
            time.sleep(max(0.0, round_began + one.fault.at_s - time.monotonic()))
            one.state, one.began, one.load = "active", time.monotonic(), machine_load()
            with action.fault(self.platform, given):
                time.sleep(one.fault.lasts_s)
            one.state, one.ended = "recovering", time.monotonic()
            probe = self._probe(action, one)
            while not self._holds(one, probe):
                if time.monotonic() - one.ended > self.recovery_limit_s * patience():
                    one.state = "not recovered"
                    return
                time.sleep(PROBE_S)
            one.state, one.recovered_s = "recovered", time.monotonic() - one.ended
            self.report(f"{one.fault}: recovered in {one.recovered_s:.1f} s")
        except Exception as error:
            one.error = f"the action failed: {error!r}"
            self.report(traceback.format_exc())

    def _probe(self, action: Action, one: Drilled) -> Callable[[], bool]:
        """Make the action's probe as soon as the platform answers, so that it begins after the fault."""
        made: list[Callable[[], bool]] = []

        def probe() -> bool:
            if not made:
                made.append(action.probe(self.platform, one.fault.given))
            return made[0]()

        return probe

    @staticmethod
    def _holds(one: Drilled, probe: Callable[[], bool]) -> bool:
        try:
            return probe()
        except Exception as error:  # the affected part does not respond yet
            one.last_probe = repr(error)[:200]
            return False

    def _settle(self) -> float:
        settled_s = self.oracle.settle(self.show)
        self._count_states()
        return settled_s

    def _count_states(self) -> None:
        self.states += reached(self.logs.new_events())


@dataclass
class Recorder:
    """Appends the results of one run to the result files."""

    run: str
    directory: Path = results.RESULTS
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    commit: str = field(default_factory=results.current_commit)
    load: float = field(default_factory=machine_load)
    faults: list[results.FaultResult] = field(default_factory=list)

    def fault(self, one: Drilled, of_round: Iterable[Drilled]) -> None:
        """Append a fault; `overlaps` names the other faults of its round that overlapped it or its recovery."""
        if not one.began:
            return
        others = sorted({other.fault.action for other in of_round if other is not one and _overlap(one, other)})
        parameters = {**one.fault.parameters, "load": round(one.load, 1)}
        parameters |= {"overlaps": "+".join(others)} if others else {}
        found = results.FaultResult(
            at=self.at,
            commit=self.commit,
            cores=os.cpu_count() or 1,
            run=self.run,
            fault=one.fault.action,
            part=one.fault.part,
            parameters=parameters,
            lasted_s=round(one.lasted_s, 1),
            recovered_s=None if one.recovered_s is None else round(one.recovered_s, 1),
            violations=(one.error[: results.MAX_DETAIL],) if one.error else (),
        )
        self.faults.append(found)
        results.append(found, self.directory)

    def drill(self, drill: Drill, *, seed: int, scenario: str, lasted_s: float) -> results.DrillResult:
        """Append and return the run's result."""
        compared = drill.oracle.compared
        found = results.DrillResult(
            at=self.at,
            commit=self.commit,
            cores=os.cpu_count() or 1,
            violations=tuple(
                f"{violation[:150]} [make drill SEED={seed} LIST='{rounds_text(drill.rounds[-1:])}']"[
                    : results.MAX_DETAIL
                ]
                for violation in drill.violations
            ),
            run=self.run,
            seed=seed,
            scenario=scenario,
            lasted_s=round(lasted_s, 1),
            quiet_points=compared.quiet_points,
            trades_emitted=compared.trades,
            bars_compared=compared.bars,
            bars_complete=compared.complete,
            states=dict(drill.states),
            load=round(self.load, 2),
        )
        record(found, self.directory)
        return found


def _overlap(one: Drilled, other: Drilled) -> bool:
    def end(of: Drilled) -> float:
        return of.ended + (of.recovered_s or 0.0) if of.ended else float("inf")

    return bool(other.began) and one.began < end(other) and other.began < end(one)


def drilled_before(directory: Path = results.RESULTS) -> Counter[tuple[str, str]]:
    """Return how often each fault was drilled on each part, over all earlier runs."""
    return Counter((found.fault, found.part) for found in results.read(results.FaultResult, directory))
