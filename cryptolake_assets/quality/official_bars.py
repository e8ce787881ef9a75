"""Compare an hour of bars with the exchange's official klines: check outcome and all differences. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.windows import HOUR
from cryptolake_assets.quality.bar_checks import BARS_AGREEING, BARS_COMPARED, OFFICIAL_KLINES
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import MINUTE_MS, epoch_ms
from cryptolake_assets.quality.reconciliation import EXACT, Verdict, compare

Bar = Mapping[str, Any]  # a row of `silver.*_ohlcv_1m`
Klines = Mapping[tuple[str, str, int], Kline]  # by (exchange, symbol, open time in ms)

SINGLE_TRADES = "trade"
NO_BAR = "bar"  # the `field` of a difference if one side has no bar; its values are trade counts


@dataclass(frozen=True)
class Agreement:
    """Result of the comparison; `differences` are rows of `silver.*_kline_differences`, without `updated_at`."""

    outcome: CheckOutcome
    differences: list[dict[str, Any]]


def compare_with_official(
    hour: datetime, bars: Sequence[Bar], klines: Klines, completeness: CompletenessIndex, tolerance: Decimal
) -> Agreement:
    """Compare the hour's complete bars with the official klines in all nine fields.

    Bars of single trades must be equal to every digit, bars of aggregate trades within `tolerance`. A covered minute
    without a bar differs from a kline with trades. Without a kline of any complete bar the check fails and reports that
    there is no reference. A minute proven complete only by its kline does not count as agreement, because the kline
    would be compared with itself.
    """
    verdicts: Counter[Verdict] = Counter()
    differences: list[dict[str, Any]] = []
    failing: list[dict[str, str]] = []
    by_klines = 0
    for bar in bars:
        exchange, symbol, start_ms = bar["exchange"], bar["symbol"], epoch_ms(bar["window_start"])
        exact = completeness.is_complete(symbol, SINGLE_TRADES, start_ms, start_ms + MINUTE_MS)
        comparison = compare(bar, klines.get((exchange, symbol, start_ms)), EXACT if exact else tolerance)
        agrees = comparison.verdict in (Verdict.EQUAL, Verdict.TOLERATED)
        if agrees and completeness.is_by_klines(symbol, start_ms, start_ms + MINUTE_MS):
            by_klines += 1
            continue
        verdicts[comparison.verdict] += 1
        differences += [
            _row(exchange, symbol, start_ms, item.field, item.ours, item.official, item.tolerated)
            for item in comparison.differences
        ]
        if comparison.verdict is Verdict.DIFFERS:
            failing.append(_sample(exchange, symbol, start_ms, str(comparison)))
    for exchange, symbol, kline in _without_bar(hour, bars, klines, completeness):
        verdicts[Verdict.DIFFERS] += 1
        start_ms, trades = kline.open_time_ms, Decimal(kline.trades)
        differences.append(_row(exchange, symbol, start_ms, NO_BAR, Decimal(0), trades, tolerated=False))
        failing.append(_sample(exchange, symbol, start_ms, f"no bar, official {kline.trades} trades"))
    judged = verdicts[Verdict.EQUAL] + verdicts[Verdict.TOLERATED] + verdicts[Verdict.DIFFERS]
    if not judged:
        description = "no reference: no complete bar has an official kline"
        if by_klines:
            description = f"no reference: {by_klines} bars are proven complete only by the official klines"
        nothing = {BARS_COMPARED: 0, BARS_AGREEING: 0}
        return Agreement(CheckOutcome(OFFICIAL_KLINES, False, description, counts=nothing), [])
    description = f"{verdicts[Verdict.EQUAL]} of {judged} complete bars equal the official klines"
    if verdicts[Verdict.TOLERATED]:
        description += f", {verdicts[Verdict.TOLERATED]} more within {tolerance:f} of them"
    if by_klines:
        description += f"; {by_klines} bars proven complete only by klines do not count"
    counts = {BARS_COMPARED: judged, BARS_AGREEING: judged - verdicts[Verdict.DIFFERS]}
    outcome = CheckOutcome(OFFICIAL_KLINES, not failing, description, len(failing), failing[:SAMPLE_ROWS], counts)
    return Agreement(outcome, differences)


def _without_bar(
    hour: datetime, bars: Sequence[Bar], klines: Klines, completeness: CompletenessIndex
) -> list[tuple[str, str, Kline]]:
    """Return the official klines with trades whose minute is covered but has no bar in Silver."""
    present = {(bar["exchange"], bar["symbol"], epoch_ms(bar["window_start"])) for bar in bars}
    first_ms, last_ms = epoch_ms(hour), epoch_ms(hour + HOUR)
    return [
        (exchange, symbol, kline)
        for (exchange, symbol, start_ms), kline in sorted(klines.items(), key=lambda item: item[0])
        if first_ms <= start_ms < last_ms
        and kline.trades > 0
        and (exchange, symbol, start_ms) not in present
        and completeness.is_complete_on_any_stream(symbol, start_ms, start_ms + MINUTE_MS)
    ]


def _row(
    exchange: str, symbol: str, start_ms: int, field: str, ours: Decimal, official: Decimal, tolerated: bool
) -> dict[str, Any]:
    return {
        "exchange": exchange,
        "symbol": symbol,
        "window_start": datetime.fromtimestamp(start_ms / 1000, UTC),
        "field": field,
        "ours": ours,
        "official": official,
        "tolerated": tolerated,
    }


def _sample(exchange: str, symbol: str, start_ms: int, difference: str) -> dict[str, str]:
    minute = f"{datetime.fromtimestamp(start_ms / 1000, UTC):%Y-%m-%d %H:%M}"
    return {"exchange": exchange, "symbol": symbol, "window_start": minute, "difference": difference}
