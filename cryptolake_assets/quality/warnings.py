"""Non-blocking checks on an hour of Silver as it will be after publication. Pure.

Each checks all bars of the hour, not only the minutes that the run touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cryptolake_assets.model.windows import HOUR, MINUTE, MINUTE_MS
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.official_bars import Klines, compare_with_official
from cryptolake_assets.quality.rules import Instrument
from cryptolake_assets.quality.run_inputs import RunInputs

if TYPE_CHECKING:
    import pyarrow as pa

Bar = Mapping[str, Any]  # a row of a table of bars


def observe_hour(
    hour: datetime,
    bars: Sequence[Bar],
    klines: Klines,
    inputs: RunInputs,
    lag_limit_s: float,
    kline_tolerance: Decimal,
) -> list[CheckOutcome]:
    """Run all checks, in the order of `SILVER_OBSERVATIONS`."""
    return [
        compare_with_official(hour, bars, klines, inputs.completeness, kline_tolerance).outcome,
        minutes_missing(bars, inputs.completeness),
        id_continuity(bars),
        event_time_lag(bars, hour, inputs.rules.symbols, inputs.exchange_time_ms, lag_limit_s),
    ]


def bars_after(present: pa.Table, bars: pa.Table, replaced_keys: pa.Table) -> list[Bar]:
    """Return the hour's bars once `bars` replace `replaced_keys`, ordered by (exchange, symbol, open time)."""
    replaced = set(map(_key, replaced_keys.to_pylist()))
    return sorted([row for row in present.to_pylist() if _key(row) not in replaced] + bars.to_pylist(), key=_key)


def minutes_missing(bars: Sequence[Bar], completeness: CompletenessIndex) -> CheckOutcome:
    """Check for uncovered minutes without a bar between a symbol's first and last bar of the hour.

    Without coverage it is unknown whether a trade happened in them.
    """
    missing = [
        {"exchange": earlier["exchange"], "symbol": earlier["symbol"], "window_start": _text(start)}
        for earlier, later in _neighbours(bars)
        for start in _minutes(earlier["window_start"] + MINUTE, later["window_start"])
        if not completeness.is_complete_on_any_stream(
            earlier["exchange"], earlier["symbol"], epoch_ms(start), epoch_ms(start) + MINUTE_MS
        )
    ]
    return _outcome("minutes_missing", missing, f"{len(missing)} minutes without a bar and without coverage")


def id_continuity(bars: Sequence[Bar]) -> CheckOutcome:
    """Check for single-trade ids missing within or between neighboring bars, and out of time order.

    The exchange's single-trade ids have natural gaps (insurance fund, auto-deleveraging), so this only warns.
    """
    found: list[dict[str, str]] = []
    total = 0

    def add(bar: Bar, kind: str, number: int) -> None:
        nonlocal total
        total += number
        found.append(
            {
                "exchange": bar["exchange"],
                "symbol": bar["symbol"],
                "window_start": _text(bar["window_start"]),
                "problem": f"{number} ids {kind}",
            }
        )

    for bar in bars:
        if inside := bar["last_trade_id"] - bar["first_trade_id"] + 1 - bar["trades"]:
            add(bar, "missing within the bar", inside) if inside > 0 else add(bar, "in excess within the bar", -inside)
    for earlier, later in _neighbours(bars):
        between = later["first_trade_id"] - earlier["last_trade_id"] - 1
        if between:
            add(later, "missing before the bar", between) if between > 0 else add(
                later, "overlap the previous bar", -between
            )
    return _outcome("id_continuity", found, f"{total} single-trade ids missing or out of order")


def event_time_lag(
    bars: Sequence[Bar], hour: datetime, symbols: Sequence[Instrument], exchange_time_ms: int | None, limit_s: float
) -> CheckOutcome:
    """Check how far each symbol's newest bar lags the exchange clock, or the hour's end once that has passed.

    The lag counts from the end of the newest bar, in steps of one minute.
    """
    if exchange_time_ms is None:
        return CheckOutcome("event_time_lag", False, "the exchange clock is unknown")
    now = min(datetime.fromtimestamp(exchange_time_ms / 1000, UTC), hour + HOUR)
    newest: dict[Instrument, datetime] = defaultdict(lambda: hour)
    for bar in bars:
        symbol = bar["exchange"], bar["symbol"]
        newest[symbol] = max(newest[symbol], bar["window_start"] + MINUTE)
    lags = {symbol: max(timedelta(0), now - newest[symbol]) for symbol in symbols}
    lagging = [
        {"exchange": exchange, "symbol": symbol, "lag_s": f"{lag.total_seconds():.0f}"}
        for (exchange, symbol), lag in sorted(lags.items())
        if lag.total_seconds() > limit_s
    ]
    worst = max((lag.total_seconds() for lag in lags.values()), default=0.0)
    return _outcome(
        "event_time_lag", lagging, f"largest lag {worst:.0f} s of {len(lags)} symbols; limit {limit_s:.0f} s"
    )


def _neighbours(bars: Sequence[Bar]) -> list[tuple[Bar, Bar]]:
    """Return the pairs of consecutive bars of one (exchange, symbol)."""
    return [(earlier, later) for earlier, later in pairwise(bars) if _key(earlier)[:2] == _key(later)[:2]]


def _key(row: Bar) -> tuple[str, str, datetime]:
    return row["exchange"], row["symbol"], row["window_start"]


def _minutes(start: datetime, end: datetime) -> list[datetime]:
    return [start + number * MINUTE for number in range((end - start) // MINUTE)]


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _outcome(name: str, failing: list[dict[str, str]], description: str) -> CheckOutcome:
    return CheckOutcome(name, not failing, description, len(failing), failing[:SAMPLE_ROWS])
