"""Steps of part `soak`, each in a separate process: simulate a lake's days, and time what runs all day on it."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import lakes
from benchmarks.runner import progress
from benchmarks.steps import main
from benchmarks.trades import DAY_MS, HOUR_MS
from cryptolake_assets.model.markets import USD_M

if TYPE_CHECKING:
    from cryptolake_assets.lake.gap_ledger import TradeGap
    from cryptolake_assets.model.coverage_rows import CoverageRow
    from cryptolake_assets.settings import Settings

STREAM = "aggTrade"
ROUND_MS = 5_000
# Per day: symbols with a gap that stays open, and with gaps that were repaired.
OPEN_GAPS, REPAIRED_GAPS = 2, 30
TRADES_PER_FILE = 50


def names(number: int) -> list[str]:
    return [f"S{index}USDT" for index in range(number)]


def lake(home: str, symbols: int, first_ms: int, days: int, seed: int) -> None:
    """Create a lake of `days` days: coverage with replaced connections, gaps, and a Bronze file per hour."""
    settings = lakes.create(Path(home), first_ms, days)
    settings = settings.model_copy(update={"symbols": tuple(names(symbols))})
    chosen = random.Random(seed)  # noqa: S311 - reproducible data, no secret
    offset = 0
    since_ms = dict.fromkeys(names(symbols), first_ms)
    for day in range(days):
        start_ms = first_ms + day * DAY_MS
        offset += 1_000_000
        _write_coverage(settings, _day_of_coverage(chosen, since_ms, start_ms, offset))
        _write_gaps(settings, chosen, names(symbols), start_ms, day)
        progress((day + 1) / days / 2)
    table = lakes.bronze(settings)
    for day in range(days):
        files = [
            file
            for hour in range(24)
            for file in lakes.data_files(table, _trades(names(symbols), first_ms + day * DAY_MS + hour * HOUR_MS, day))
        ]
        lakes.append(table, files)
        progress(0.5 + (day + 1) / days / 2)


def _day_of_coverage(
    chosen: random.Random, since_ms: dict[str, int], start_ms: int, offset: int
) -> Iterator[CoverageRow]:
    """Yield a day's claims: each symbol's connection is replaced; ids prove the time since its last open gap."""
    from cryptolake_assets.model.coverage_rows import Evidence

    for symbol in chosen.sample(sorted(since_ms), min(OPEN_GAPS, len(since_ms))):
        since_ms[symbol] = start_ms + chosen.randrange(DAY_MS // 2)
    for number, symbol in enumerate(since_ms):
        partition, end_ms = number % 4, start_ms + DAY_MS
        yield _claim(symbol, max(since_ms[symbol], start_ms - 62_000), end_ms - 400, partition, offset, Evidence.IDS)
        yield _claim(symbol, start_ms - 30_000, end_ms, partition, offset, Evidence.BARRIER)


def _claim(symbol: str, from_ms: int, to_ms: int, partition: int, offset: int, evidence: Any) -> CoverageRow:
    from cryptolake_assets.model.coverage_rows import CoverageRow

    return CoverageRow(USD_M.exchange, symbol, STREAM, from_ms, to_ms, partition, offset, "wss://x", evidence)


def _write_coverage(settings: Settings, claims: Iterator[CoverageRow]) -> None:
    from cryptolake_assets.lake.coverage import IcebergCoverageSink

    IcebergCoverageSink(settings).write(list(claims))


def _write_gaps(settings: Settings, chosen: random.Random, symbols: Sequence[str], start_ms: int, day: int) -> None:
    from cryptolake_assets.lake.gap_ledger import IcebergGapSink

    gaps = [
        _gap(chosen.choice(symbols), day * 1_000 + number, start_ms + chosen.randrange(DAY_MS), closed=True)
        for number in range(REPAIRED_GAPS)
    ]
    IcebergGapSink(settings).write(gaps)


def _gap(symbol: str, first_id: int, at_ms: int, *, closed: bool) -> TradeGap:
    from cryptolake_assets.lake.gap_ledger import ClosedBy, GapOutcome, TradeGap

    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return TradeGap(
        exchange=USD_M.exchange,
        symbol=symbol,
        stream=STREAM,
        first_missing_id=first_id,
        last_missing_id=first_id,
        ids_missing=0 if closed else 1,
        after_us=at_ms * 1000,
        before_us=at_ms * 1000 + 5_000,
        detected_at=at,
        closed_at=at if closed else None,
        closed_by=ClosedBy.REST if closed else None,
        outcome=GapOutcome.REPAIRED if closed else None,
        kafka_partition=0 if closed else None,
        kafka_offset=1 if closed else None,
    )


def _trades(symbols: Sequence[str], start_ms: int, first_id: int) -> Any:
    """Return a few Bronze rows of an hour."""
    import pyarrow as pa

    from cryptolake_assets.model.family_tables import FUTURES

    rows = [
        {
            **dict.fromkeys(FUTURES.trades.column_names),
            "symbol": symbols[number % len(symbols)],
            "event_time": datetime.fromtimestamp((start_ms + number * 1_000) / 1000, UTC),
            "trade_id": first_id + number,
            "exchange": USD_M.exchange,
            "stream": STREAM,
            "trade_type": "MARKET",
        }
        for number in range(TRADES_PER_FILE)
    ]
    return pa.Table.from_pylist(rows, FUTURES.trades.arrow_schema())


def measure(home: str, symbols: int, first_ms: int, days: int, clock_url: str, rounds: int) -> dict[str, Any]:
    """Return the median seconds of each step at the end of the lake's days, and the number of coverage rows."""
    from cryptolake_assets.lake.coverage import read_coverage

    settings = lakes.lake_settings(Path(home), clock_url).model_copy(update={"symbols": tuple(names(symbols))})
    steps = _steps(settings, names(symbols), first_ms + days * DAY_MS)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step(number)
            if number >= 2:  # warm
                taken[name].append(time.perf_counter() - started)
    seconds = {name: round(statistics.median(values), 5) for name, values in taken.items()}
    return {"seconds": seconds, "coverage_rows": len(read_coverage(settings))}


def _steps(settings: Settings, symbols: Sequence[str], now_ms: int) -> dict[str, Callable[[int], object]]:
    """Return the steps by name; each takes the number of the round."""
    from cryptolake_assets.binance.stream_types import TRADES
    from cryptolake_assets.lake.bronze_files import current_sequence
    from cryptolake_assets.lake.bronze_follower import FollowerState
    from cryptolake_assets.lake.coverage import IcebergCoverageSink, read_coverage_of
    from cryptolake_assets.lake.gap_ledger import IcebergGapSink
    from cryptolake_assets.lake.maintenance.expiry import due_snapshots, history_of
    from cryptolake_assets.lake.maintenance.layout import live_files
    from cryptolake_assets.lake.maintenance.tasks import hours_of
    from cryptolake_assets.model.coverage_rows import Evidence
    from cryptolake_assets.transform.follow_bronze import mark_touched_hours

    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    state = FollowerState(sequence=current_sequence(lakes.bronze(settings)))
    sink, gaps = IcebergCoverageSink(settings), IcebergGapSink(settings)

    def write_coverage(number: int) -> None:
        end_ms, offset = now_ms + (number + 1) * ROUND_MS, 10**9 + number
        sink.write(
            [
                _claim(symbol, end_ms - ROUND_MS - 62_000, end_ms - lag_ms, index % 4, offset, evidence)
                for index, symbol in enumerate(symbols)
                for evidence, lag_ms in ((Evidence.IDS, 400), (Evidence.BARRIER, 0))
            ]
        )

    def tick(number: int) -> None:
        table = lakes.bronze(settings)
        lakes.append(table, lakes.data_files(table, _trades(symbols, now_ms, 10**6 + number * TRADES_PER_FILE)))
        mark_touched_hours(settings, state, lakes.bronze(settings), TRADES.capabilities)

    return {
        "coverage write": write_coverage,
        "coverage read": lambda _: read_coverage_of(settings, [USD_M.exchange], now - timedelta(hours=1), now),
        "gap ledger write": lambda number: gaps.write([_gap(symbols[0], 10**6 + number, now_ms, closed=False)]),
        "follower tick": tick,
        "compaction plan": lambda _: hours_of(live_files(lakes.bronze(settings)), lambda _: None),
        "expiry plan": lambda _: due_snapshots(history_of(lakes.bronze(settings)), now_ms, 10),
    }


STEPS: dict[str, Callable[..., Any]] = {"lake": lake, "measure": measure}

if __name__ == "__main__":
    main(STEPS, *sys.argv[1:])
