"""The platform under drill: a fresh home with free ports, the replayed feed, and what actions and probes ask it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from rich.console import Console

from cryptolake_assets.errors import PartError
from cryptolake_assets.lake.bronze_files import added_files, current_sequence
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.live.settled_counts import settled_counts
from cryptolake_assets.live.settlement import SettledOutcome
from cryptolake_assets.model.hostile_frames import FAR_FUTURE_MS
from cryptolake_assets.model.ops_tables import OPS_RUN_METRICS
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.graphql import location_errors
from cryptolake_assets.platform.parts import local_parts, part_named
from cryptolake_assets.platform.supervisor import Supervisor
from cryptolake_assets.settings import Settings, Source
from cryptolake_tests.support.platforms import free_ports, settings_for
from reliability.drills.actions import Probe
from reliability.drills.feed import BarKey, Emitted
from reliability.drills.small_disk import OWN_DISK

SERVED_MINUTES: Final = 10_000  # of a symbol: more than a drill lasts
CATALOG: Final = "catalog"  # capability: no fault locks the catalog

# Quick intervals, so that a recovery shows the fault's cost and not the wait for the next tick.
SETTINGS: Final[Mapping[str, object]] = {
    "replay_speed": 1.0,
    "coverage_interval_s": 1.0,
    "bronze_trigger_s": 2.0,
    "silver_interval_s": 15,
    "gold_interval_min": 30,
}


def _live_source(port: int) -> dict[str, object]:
    """Return the settings of a live source at the replay exchange's address."""
    address = f"127.0.0.1:{port}"
    sources = dict.fromkeys(("exchange_rest_url", "fear_greed_url", "archive_base_url"), f"http://{address}")
    coingecko = f"http://{address}/api/v3"
    return {"source": Source.BINANCE, "exchange_ws_url": f"ws://{address}", "coingecko_url": coingecko, **sources}


def _start_exchange(settings: Settings) -> subprocess.Popen[bytes]:
    """Start the replay exchange as a process of its own, as a live platform has none."""
    values = {
        "CRYPTOLAKE_SOURCE": Source.REPLAY.value,
        "CRYPTOLAKE_HOME": str(settings.home / "exchange"),
        "CRYPTOLAKE_REPLAY_DIR": str(settings.replay_dir),
        "CRYPTOLAKE_REPLAY_SPEED": "1",
        "CRYPTOLAKE_EXCHANGE_PORT": str(settings.exchange_port),
    }
    command = [sys.executable, "-m", "cryptolake_assets.replay.server"]
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    with (settings.log_dir / "exchange.log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, **values}, stdout=log, stderr=log)


@dataclass
class Allowance:
    """What an action has declared beyond the feed, so that the oracle does not expect it otherwise."""

    incomplete: set[BarKey] = field(default_factory=set)  # minutes that may stay incomplete or missing
    ids: set[tuple[str, int]] = field(default_factory=set)  # (symbol, id) of inserted frames


class DrilledPlatform:
    """The running platform of one drill. Its methods may be called from several threads."""

    def __init__(
        self, home: Path, emitted: Emitted, settings: Mapping[str, object] | None = None, *, is_live: bool = False
    ) -> None:
        """`is_live`: the platform takes the replay exchange for the real one, whose clock shows the present time."""
        self.emitted = emitted
        ports = free_ports()
        source = _live_source(ports["exchange_port"]) if is_live else {"source": Source.REPLAY}
        self.settings: Settings = settings_for(
            home, replay_dir=emitted.directory, **ports, **{**SETTINGS, **source, **(settings or {})}
        )
        self._exchange: subprocess.Popen[bytes] | None = None
        self.capabilities = {part.name for part in local_parts(self.settings)} | {CATALOG}
        if home.is_mount():
            self.capabilities.add(OWN_DISK)
        self.allowance = Allowance()
        self._http = httpx.Client(trust_env=False, timeout=10.0)
        self._bronze_lock = threading.Lock()
        self._bronze_sequence = 0
        self._bronze_time_ms = 0

    def start(self) -> None:
        """Start all parts; try again if a part was too slow, as other programs may have the cores."""
        if self.settings.source is not Source.REPLAY:
            self._exchange = _start_exchange(self.settings)
        for is_last in (False, False, True):
            try:
                lifecycle.up(self.settings, console=Console(file=io.StringIO()))
                return
            except PartError:
                if is_last:
                    raise

    def stop(self) -> None:
        lifecycle.down(self.settings, Console(file=io.StringIO()))
        if self._exchange is not None:
            self._exchange.terminate()
            self._exchange.wait()
        self._http.close()

    # The exchange.

    def exchange_status(self) -> dict[str, Any]:
        """Return the response of the replay exchange's `/replay/status`."""
        response = self._http.get(f"http://{self.settings.replay_address}/replay/status")
        return dict(response.raise_for_status().json())

    def end_faults(self, kind: str) -> None:
        """Switch off the replay exchange's faults of a kind."""
        url = f"http://{self.settings.replay_address}/replay/faults"
        self._http.delete(url, params={"kind": kind}).raise_for_status()

    def clock_ms(self) -> int:
        """Return the exchange's clock."""
        return int(self.exchange_status()["clock_ms"])

    def switch_faults(self, *faults: Mapping[str, object]) -> None:
        """Switch on faults of the replay exchange; without faults, switch all of them off."""
        url = f"http://{self.settings.replay_address}/replay/faults"
        if faults:
            self._http.post(url, json=list(faults)).raise_for_status()
        else:
            self._http.delete(url).raise_for_status()

    # The parts.

    def pid(self, part: str) -> int | None:
        """Return the process id of a part; None while it has no process."""
        info = Supervisor(self.settings).processes().get(part)
        return info.pid if info else None

    def processes(self, part: str, *, with_children: bool = False) -> list[psutil.Process]:
        """Return the process of a part, last, after the ones that it started; empty while it has none."""
        with suppress(psutil.NoSuchProcess):
            if pid := self.pid(part):
                process = psutil.Process(pid)
                return [*(process.children(recursive=True) if with_children else ()), process]
        return []

    def is_running(self, part: str) -> bool:
        """Return whether a part's process lives and is ready."""
        info = Supervisor(self.settings).processes().get(part)
        return info is not None and info.alive and part_named(part).is_ready(self.settings, info.started_s)

    # The tables and the graph.

    def bronze_time_ms(self) -> int:
        """Return the newest event time in Bronze, from the files added since the last call; 0 without trades."""
        with self._bronze_lock:
            table = load_table(self.settings, self.settings.tables.trades)
            newest = (round(file.latest.timestamp() * 1000) for file in added_files(table, self._bronze_sequence))
            sent = (time_ms for time_ms in newest if time_ms < FAR_FUTURE_MS)
            self._bronze_time_ms = max(sent, default=self._bronze_time_ms)
            self._bronze_sequence = current_sequence(table)
            return self._bronze_time_ms

    def open_gaps(self) -> int:
        """Return the number of open gaps in the ledger."""
        found = run_sql(
            self.settings, f"SELECT count(*) AS n FROM {self.settings.tables.gaps.full_name} WHERE closed_at IS NULL"
        )
        return int(found.to_pylist()[0]["n"])

    def newest_bar(self) -> datetime | None:
        """Return the start of the newest minute in Silver."""
        found = run_sql(self.settings, f"SELECT max(window_start) AS at FROM {self.settings.tables.bars.full_name}")
        newest: datetime | None = found.to_pylist()[0]["at"]
        return newest

    def refreshed_since(self, moment: datetime) -> bool:
        """Return whether a refresh of Silver that began since then has passed its checks."""
        asset = "/".join(self.settings.tables.bars.identifier)
        found = run_sql(
            self.settings,
            f"SELECT count(*) AS n FROM {OPS_RUN_METRICS.full_name} WHERE asset = '{asset}' AND passed "
            f"AND finished_at - to_milliseconds(duration_ms) >= TIMESTAMPTZ '{moment.isoformat()}'",
        )
        return bool(found.to_pylist()[0]["n"])

    def served_bar(self) -> datetime | None:
        """Return the start of the newest minute that the API serves; None if it serves none."""
        bars = self._served(self.emitted.feed.symbols[0], limit=1, order="desc")
        return datetime.fromisoformat(bars[0]["window_start"]).astimezone(UTC) if bars else None

    def bar(self, symbol: str, start: str, state: str) -> dict[str, Any] | None:
        """Return the bar that the API serves of the minute that begins at `start`, if it has this state."""
        found = self._served(symbol, start=start, end=start, state=state)
        return found[0] if found else None

    def served_bars(self) -> dict[BarKey, dict[str, Any]]:
        """Return the bars that the API serves without being asked for a state, by symbol and minute."""
        return {
            (symbol, round(datetime.fromisoformat(bar["window_start"]).timestamp() * 1000)): bar
            for symbol in self.emitted.feed.symbols
            for bar in self._served(symbol, limit=SERVED_MINUTES, order="desc")
        }

    def _served(self, symbol: str, **query: str | int) -> list[dict[str, Any]]:
        """Return the one-minute bars with which the API answers a query; none before the symbol's first trade."""
        response = self._http.get(f"{self.settings.api_url}/ohlcv/1m", params={"symbol": symbol, **query})
        if response.status_code == httpx.codes.NOT_FOUND:
            return []
        bars: list[dict[str, Any]] = response.raise_for_status().json()["bars"]
        return bars

    def unexplained_bars(self) -> int:
        """Return how many bars differed from Silver's without a known cause since the API started."""
        counts = settled_counts(self.settings, self.settings.venue.family) or {}
        return counts.get(SettledOutcome.UNEXPLAINED, 0)

    # Probes of a part's work, made when a fault has ended.

    def stored_after_now(self, part: str = "") -> Probe:
        """Return a probe: a trade emitted from now on is in Bronze, and the part is running."""
        since_ms = self.clock_ms()
        return lambda: self.bronze_time_ms() > since_ms and (not part or self.is_running(part))

    def refreshed_after_now(self, part: str = "") -> Probe:
        """Return a probe: a refresh of Silver that began from now on has passed, and the part is running."""
        since = datetime.now(UTC)
        return lambda: self.refreshed_since(since) and (not part or self.is_running(part))

    def served(self) -> Probe:
        """Return a probe: the API serves the newest minute in Silver."""
        return lambda: (served := self.served_bar()) is not None and served >= (self.newest_bar() or served)

    def loaded(self, part: str) -> Probe:
        """Return a probe: the code server is running, and Dagster has loaded all definitions."""
        return lambda: self.is_running(part) and not location_errors(self.settings)

    def kill(self, part: str, *, with_children: bool = False) -> None:
        """Send SIGKILL to a part's process; do nothing while it has none."""
        for process in self.processes(part, with_children=with_children):
            with suppress(psutil.NoSuchProcess):
                process.kill()
