"""Measure how far each symbol's bars lag the exchange clock, independently of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.lake.bronze_files import files_between, scan_trades
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.duck import open_duckdb
from cryptolake_assets.lake.filters import between
from cryptolake_assets.model.windows import DAY, HOUR, MINUTE, day_of
from cryptolake_assets.quality.bar_checks import UP_TO_DATE
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.rules import Instrument
from cryptolake_assets.settings import Settings, Source

if TYPE_CHECKING:
    from cryptolake_assets.quality.run_inputs import RunInputs

LOOK_BACK = DAY  # older bars are ignored
TRADES_LOOK_BACK = 2 * HOUR
MAX_LIMIT_S = 10 * 365 * 86_400.0
FAILS_AT = 3  # a lag above this multiple of the limit is an error, a smaller one a warning


@dataclass(frozen=True)
class SymbolLag:
    """A symbol's lag: exchange clock minus the end of its newest bar. `is_idle`: no trades since that bar."""

    exchange: str
    symbol: str
    lag: timedelta
    is_idle: bool = False


@dataclass(frozen=True)
class Freshness:
    """The check `up_to_date`, whether its failure is an error, and the exchange clock (None if unknown)."""

    outcome: CheckOutcome
    is_error: bool
    clock_ms: int | None


def check_up_to_date(settings: Settings, clock_before_ms: int | None = None) -> Freshness:
    """Return the check `up_to_date` as of now; `clock_before_ms` is the exchange clock at an earlier check."""
    from cryptolake_assets.binance.exchange_clock import exchange_clock_ms
    from cryptolake_assets.transform.load_inputs import load_run_inputs

    clock_ms = exchange_clock_ms(settings)
    if clock_ms is None:
        return Freshness(CheckOutcome(UP_TO_DATE, False, "the exchange clock is unknown"), False, None)
    limit_s = settings.event_time_lag_limit_in_use_s
    clock = datetime.fromtimestamp(clock_ms / 1000, UTC)
    replay_finished = settings.source is Source.REPLAY and clock_ms == clock_before_ms
    limit = timedelta(seconds=min(limit_s, MAX_LIMIT_S))
    lags = (
        []
        if replay_finished
        else symbol_lags(settings, load_run_inputs(settings, clock - limit, clock), clock, limit_s)
    )
    outcome = judge(lags, clock, limit_s, replay_finished)
    is_error = not judge(lags, clock, FAILS_AT * limit_s, replay_finished).passed
    return Freshness(outcome, is_error, clock_ms)


def symbol_lags(settings: Settings, inputs: RunInputs, clock: datetime, limit_s: float) -> list[SymbolLag]:
    """Return the lag of every tracked symbol of the family, in order."""
    limit = timedelta(seconds=min(limit_s, MAX_LIMIT_S))
    ends = _newest_ends(settings, clock)
    gaps = {symbol: max(timedelta(0), clock - ends.get(symbol, clock - LOOK_BACK)) for symbol in inputs.rules.symbols}
    maybe_idle = {
        symbol: clock - gap
        for symbol, gap in gaps.items()
        if gap > limit and _is_covered(inputs, symbol, clock - limit)
    }
    idle = maybe_idle.keys() - _traded_since(settings, maybe_idle, clock)
    return [SymbolLag(*symbol, gap, symbol in idle) for symbol, gap in sorted(gaps.items())]


def judge(lags: Sequence[SymbolLag], clock: datetime, limit_s: float, replay_finished: bool) -> CheckOutcome:
    """Return the check `up_to_date`: it fails if a traded symbol lags by more than the limit.

    `replay_finished` means that a replay's clock has reached its end: no more data can arrive.
    """
    if replay_finished:
        return CheckOutcome(
            UP_TO_DATE, True, f"replay finished: the exchange clock stopped at {clock:%Y-%m-%dT%H:%M:%SZ}"
        )
    lagging = [item for item in lags if not item.is_idle and item.lag.total_seconds() > limit_s]
    worst = max((item.lag.total_seconds() for item in lags if not item.is_idle), default=0.0)
    idle = sum(item.is_idle for item in lags)
    return CheckOutcome(
        UP_TO_DATE,
        not lagging,
        f"largest lag {worst:.0f} s of {len(lags)} symbols, {idle} without trades; limit {limit_s:.0f} s",
        len(lagging),
        [
            {"exchange": item.exchange, "symbol": item.symbol, "lag_s": f"{item.lag.total_seconds():.0f}"}
            for item in lagging[:SAMPLE_ROWS]
        ],
    )


def _newest_ends(settings: Settings, clock: datetime) -> dict[Instrument, datetime]:
    """Return the end of the newest bar by (exchange, symbol)."""
    recent = between("window_start", day_of(clock - LOOK_BACK), day_of(clock) + DAY)
    fields = ("exchange", "symbol", "window_start")
    bars = load_table(settings, settings.tables.bars).scan(recent, selected_fields=fields).to_arrow()
    newest = bars.group_by(["exchange", "symbol"]).aggregate([("window_start", "max")]).to_pylist()
    return {(row["exchange"], row["symbol"]): row["window_start_max"].astimezone(UTC) + MINUTE for row in newest}


def _traded_since(settings: Settings, ends: dict[Instrument, datetime], clock: datetime) -> set[Instrument]:
    """Return the symbols with trades in Bronze newer than `ends`, at most `TRADES_LOOK_BACK` old."""
    bronze = load_table(settings, settings.tables.trades)
    snapshot = bronze.metadata.current_snapshot_id
    if snapshot is None or not ends:
        return set()
    first = max(min(ends.values()), clock - TRADES_LOOK_BACK)
    files = files_between(bronze, snapshot, first, clock + HOUR)
    if not files:
        return set()
    with open_duckdb() as duck:
        newest = duck.sql(
            f"SELECT exchange, symbol, max(epoch_ms(event_time)) FROM {scan_trades(duck, files)} GROUP BY ALL"
        ).fetchall()
    latest_ms = {(exchange, symbol): newest_ms for exchange, symbol, newest_ms in newest}
    return {symbol for symbol, end in ends.items() if latest_ms.get(symbol, 0) >= epoch_ms(end)}


def _is_covered(inputs: RunInputs, symbol: Instrument, moment: datetime) -> bool:
    """Return whether coverage contains that moment for the symbol."""
    at_ms = epoch_ms(moment)
    return inputs.completeness.is_complete_on_any_stream(*symbol, at_ms, at_ms + 1)
