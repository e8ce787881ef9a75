"""Checks on the batch sources' tables. Pure.

Blocking checks are predicates, by table and check, that are true on a failing row. The others check the published
table for missing rows and the age of its newest row, and warn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise

from cryptolake_assets.model.derivatives_tables import SILVER_FUNDING, SILVER_OPEN_INTEREST
from cryptolake_assets.model.source_facts import (
    KNOWN_MISSING,
    MAX_FUNDING_RATE,
    OPEN_INTEREST_PERIOD,
    missing_days,
)
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_COINGECKO_MARKETS, SILVER_FEAR_GREED
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.quality.candidate_checks import SAMPLE_ROWS, CheckOutcome

Times = Mapping[str, Sequence[datetime]]  # stored times by symbol, in order

MAX_FUNDING_INTERVAL = timedelta(hours=8)
JITTER = timedelta(minutes=1)  # the exchange charges funding some ms after the full hour; up to a minute is not a gap

DAYS_MISSING = "days_missing"
NEWEST_ROW = "newest_row"
ROWS_REJECTED = "rows_rejected"
FUNDING_GAPS = "funding_gaps"
PERIODS_MISSING = "periods_missing"
SYMBOLS_BEHIND = "symbols_behind"


def _none_empty(spec: TableSpec, *but: str) -> str:
    return " OR ".join(f"{name} IS NULL" for name in spec.column_names if name not in ("updated_at", *but))


# A comparison with NULL is not true, so nullable columns pass.
BATCH_RULES: Mapping[str, Mapping[str, str]] = {
    SILVER_FEAR_GREED.name: {
        "index_range": "value NOT BETWEEN 0 AND 100",
        "no_nulls": _none_empty(SILVER_FEAR_GREED),
    },
    SILVER_COINGECKO_MARKETS.name: {
        "not_negative": (
            "price < 0 OR market_cap < 0 OR total_volume < 0 OR circulating_supply < 0 OR market_cap_rank < 1"
        ),
        "key_present": "snapshot_hour IS NULL OR coin_id IS NULL",
    },
    SILVER_COINGECKO_GLOBAL.name: {
        "not_negative": "total_market_cap < 0 OR total_volume < 0",
        "dominance_range": "btc_dominance NOT BETWEEN 0 AND 100 OR eth_dominance NOT BETWEEN 0 AND 100",
        "no_nulls": _none_empty(SILVER_COINGECKO_GLOBAL, "market_cap_change_percentage_24h"),
    },
    SILVER_FUNDING.name: {
        "funding_rate_range": f"funding_rate NOT BETWEEN -{MAX_FUNDING_RATE} AND {MAX_FUNDING_RATE}",
        "mark_price_positive": "mark_price <= 0",
        "no_nulls": _none_empty(SILVER_FUNDING, "mark_price"),
    },
    SILVER_OPEN_INTEREST.name: {
        "open_interest_not_negative": "open_interest < 0 OR open_interest_value < 0",
        "no_nulls": _none_empty(SILVER_OPEN_INTEREST, "open_interest_value"),
        "value_of_history": "source = 'history' AND open_interest_value IS NULL",
    },
}

MEANINGS: Mapping[str, str] = {
    "index_range": "Index values are 0 to 100.",
    "not_negative": "Prices, market caps, volumes and supplies are >= 0.",
    "dominance_range": "Market shares are 0 to 100 %.",
    "key_present": "Every row has its hour and its coin id.",
    "funding_rate_range": f"Funding rates are between -{MAX_FUNDING_RATE} and {MAX_FUNDING_RATE}.",
    "mark_price_positive": "Mark prices are NULL or above 0.",
    "open_interest_not_negative": "Open interest and its value are >= 0.",
    "value_of_history": "Every row of the exchange's history has a value in quote currency.",
    FUNDING_GAPS: "No funding rate is missing between a symbol's first and newest row. Warns only.",
    PERIODS_MISSING: "No five-minute statistic of the exchange's available history is missing. Warns only.",
    SYMBOLS_BEHIND: "Each symbol's newest row lags the exchange clock by at most the limit. Warns only.",
    DAYS_MISSING: "No day is missing, except days without a published index. Warns only.",
    NEWEST_ROW: "The newest row is of the source's current day or the day before. Warns only.",
    ROWS_REJECTED: "No row of the source was rejected: every row is well-formed and its values are valid. Warns only.",
}


def blocking(spec: TableSpec) -> tuple[str, ...]:
    """Return the names of the checks on a candidate of the table, in the order of their results."""
    return ("schema", "unique_key", *BATCH_RULES[spec.name])


def days_missing(stored: Collection[date]) -> CheckOutcome:
    """Check for missing days up to the newest stored one.

    The description lists days without a published index; they do not count.
    """
    missing = missing_days(stored, max(stored)) if stored else []
    known = [day for day in missing if day in KNOWN_MISSING]
    unknown = [day for day in missing if day not in KNOWN_MISSING]
    unpublished = ", ".join(map(str, known)) or "none"
    description = f"{len(stored)} days stored, {len(unknown)} missing; never published: {unpublished}"
    sample = [{"index_date": str(day)} for day in unknown[-SAMPLE_ROWS:]]
    return CheckOutcome(DAYS_MISSING, not unknown and bool(stored), description, len(unknown), sample)


def newest_row(stored: Collection[date], today: date) -> CheckOutcome:
    """Check the age of the newest row; `today` is by the source's clock."""
    newest = max(stored, default=None)
    passed = newest is not None and newest >= today - timedelta(days=1)
    return CheckOutcome(NEWEST_ROW, passed, f"newest day: {newest or 'none'}; source clock: {today}")


def rows_rejected(rejected_rows: Iterable[str]) -> CheckOutcome:
    """Report the rejected rows of accepted responses, without duplicates; the other rows are stored."""
    rows = list(dict.fromkeys(rejected_rows))
    sample = [{"row": row} for row in rows[:SAMPLE_ROWS]]
    return CheckOutcome(ROWS_REJECTED, not rows, f"{len(rows)} rows rejected", len(rows), sample)


def funding_gaps(stored: Times) -> CheckOutcome:
    """Check for gaps in each symbol's fundings.

    A gap is an interval longer than eight hours, or longer than the intervals on both sides: symbols change between
    intervals of 8, 4 and 1 hours, so a single longer interval means that a funding is missing.
    """
    found = [
        {"symbol": symbol, "after": _text(start), "before": _text(end)}
        for symbol, times in sorted(stored.items())
        for start, end in _gaps(times)
    ]
    rates = sum(map(len, stored.values()))
    return _outcome(FUNDING_GAPS, found, f"{rates} rates of {len(stored)} symbols stored, {len(found)} gaps")


def _gaps(times: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    lengths = [end - start for start, end in pairwise(times)]
    for number, (start, end) in enumerate(pairwise(times)):
        around = [*lengths[max(0, number - 1) : number], *lengths[number + 1 : number + 2]]
        is_single = len(around) == 2 and lengths[number] > max(around) + JITTER
        if is_single or lengths[number] > MAX_FUNDING_INTERVAL + JITTER:
            yield start, end


def periods_missing(stored: Times) -> CheckOutcome:
    """Check for missing five-minute statistics between a symbol's first and newest one."""
    found = [
        {"symbol": symbol, "after": _text(start), "before": _text(end)}
        for symbol, times in sorted(stored.items())
        for start, end in pairwise(times)
        if end - start > OPEN_INTEREST_PERIOD
    ]
    missing = sum(
        (end - start) // OPEN_INTEREST_PERIOD - 1
        for times in stored.values()
        for start, end in pairwise(times)
        if end - start > OPEN_INTEREST_PERIOD
    )
    return _outcome(PERIODS_MISSING, found, f"{missing} periods missing in {len(found)} gaps")


def symbols_behind(stored: Times, symbols: Sequence[str], clock: datetime, limit: timedelta) -> CheckOutcome:
    """Check for tracked symbols without rows, or whose newest row lags the exchange clock by more than `limit`."""
    found = []
    for symbol in symbols:
        newest = stored[symbol][-1] if stored.get(symbol) else None
        if newest is None or clock - newest > limit:
            found.append({"symbol": symbol, "newest": "none" if newest is None else _text(newest)})
    description = (
        f"{len(found)} of {len(symbols)} symbols lag the clock ({clock:%Y-%m-%dT%H:%M:%SZ}) by more than {limit}"
    )
    return _outcome(SYMBOLS_BEHIND, found, description)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _outcome(name: str, found: list[dict[str, str]], description: str) -> CheckOutcome:
    return CheckOutcome(name, not found, description, len(found), found[-SAMPLE_ROWS:])
