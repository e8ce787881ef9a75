"""Compare an hour of bars with the exchange's official klines: check outcome and all differences. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from cryptolake_assets.model.exchange_records import Kline
from cryptolake_assets.model.windows import HOUR, MINUTE_MS
from cryptolake_assets.quality.bar_checks import BARS_AGREEING, BARS_COMPARED, OFFICIAL_KLINES
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_assets.quality.minute_bars import epoch_ms
from cryptolake_assets.quality.reconciliation import EXACT, Verdict, compare

Bar = Mapping[str, Any]  # a row of a table of bars
_Key = tuple[str, str, int]  # exchange, symbol, open time in ms
Klines = Mapping[_Key, Kline]

SINGLE_TRADES = "trade"
NO_BAR = "bar"  # the `field` of a difference if one side has no bar; its values are trade counts


@dataclass(frozen=True)
class Agreement:
    """Result of the comparison; `differences` are rows of their Silver table, without `updated_at`."""

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
        key = exchange, symbol, start_ms = bar["exchange"], bar["symbol"], epoch_ms(bar["window_start"])
        window = start_ms, start_ms + MINUTE_MS
        stream = bar["stream"]
        if stream is None:  # a bar of earlier releases: single trades win where they are complete
            exact = completeness.is_complete(exchange, symbol, SINGLE_TRADES, *window)
        else:
            exact = stream == SINGLE_TRADES
        comparison = compare(bar, klines.get(key), EXACT if exact else tolerance)
        agrees = comparison.verdict in (Verdict.EQUAL, Verdict.TOLERATED)
        if agrees and completeness.is_by_klines(exchange, symbol, *window):
            by_klines += 1
            continue
        verdicts[comparison.verdict] += 1
        differences += [
            _row(key, item.field, item.ours, item.official, item.tolerated) for item in comparison.differences
        ]
        if comparison.verdict is Verdict.DIFFERS:
            failing.append(_sample(key, str(comparison)))
    for key, kline in _without_bar(hour, bars, klines, completeness):
        verdicts[Verdict.DIFFERS] += 1
        differences.append(_row(key, NO_BAR, Decimal(0), Decimal(kline.trades), tolerated=False))
        failing.append(_sample(key, f"no bar, official {kline.trades} trades"))
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
) -> list[tuple[_Key, Kline]]:
    """Return the official klines with trades whose minute is covered but has no bar in Silver."""
    present = {(bar["exchange"], bar["symbol"], epoch_ms(bar["window_start"])) for bar in bars}
    first_ms, last_ms = epoch_ms(hour), epoch_ms(hour + HOUR)
    return [
        (key, kline)
        for key, kline in sorted(klines.items(), key=lambda item: item[0])
        if first_ms <= kline.open_time_ms < last_ms
        and kline.trades > 0
        and key not in present
        and completeness.is_complete_on_any_stream(*key, kline.open_time_ms + MINUTE_MS)
    ]


def _row(key: _Key, field: str, ours: Decimal, official: Decimal, tolerated: bool) -> dict[str, Any]:
    exchange, symbol, start_ms = key
    return {
        "exchange": exchange,
        "symbol": symbol,
        "window_start": datetime.fromtimestamp(start_ms / 1000, UTC),
        "field": field,
        "ours": ours,
        "official": official,
        "tolerated": tolerated,
    }


def _sample(key: _Key, difference: str) -> dict[str, str]:
    exchange, symbol, start_ms = key
    minute = f"{datetime.fromtimestamp(start_ms / 1000, UTC):%Y-%m-%d %H:%M}"
    return {"exchange": exchange, "symbol": symbol, "window_start": minute, "difference": difference}
