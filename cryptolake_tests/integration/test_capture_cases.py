"""USD-M captures with known problems through the entire pipeline, compared with bars computed in plain Python.

The replay exchange, the producer, the broker and the Bronze stream are processes of one platform.

The Spot capture of the cases is in test_markets.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from cryptolake_assets.platform import lifecycle
from cryptolake_assets.producer.status_file import StreamCounts
from cryptolake_tests.support.capture_cases import (
    CASES,
    PARTS,
    Replayed,
    expected,
    wait_until_replayed,
    with_columns_of,
)
from cryptolake_tests.support.platforms import StartPlatform, settings_for

WIDE_PRICE, WIDE_QUANTITY = Decimal("0.009512"), Decimal(12_500_000_000)
"""The trade that is missing in the expected bars of `wide`."""
REJECTED = {("4USDT", 9031): "price_format", ("BTCUSDT", 9032): "out_of_range"}
REJECTED_GAPS = """
SELECT gap.symbol, gap.first_missing_id, gap.ids_missing,
       decode(letter.raw) LIKE '%' || gap.first_missing_id || '%' AS raw_has_id,
       letter.reason = gap.rejected_reason AS is_reason
FROM cryptolake.bronze.futures_trade_gaps AS gap
JOIN cryptolake.bronze.futures_trades_rejected AS letter
  ON letter.kafka_partition = gap.dead_letter_partition AND letter.kafka_offset = gap.dead_letter_offset
WHERE gap.open_because = 'rejected'
ORDER BY gap.symbol
"""


@pytest.fixture(scope="module")
def names(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    settings = settings_for(
        tmp_path_factory.mktemp("usdm"),
        replay_dir=CASES / "names",
        replay_speed=0,
        bronze_trigger_s=1,
        coverage_interval_s=1,
        spark_memory_mb=1024,
    )
    with start_platform(settings, PARTS):
        yield wait_until_replayed(settings)


@pytest.fixture(scope="module")
def wide(names: Replayed) -> Replayed:
    """The second capture on the same platform, as `cryptolake replay` starts it."""
    return next_capture(names, "wide")


@pytest.fixture(scope="module")
def mark_only(wide: Replayed) -> Replayed:
    return next_capture(wide, "mark-only")


def next_capture(before: Replayed, case: str) -> Replayed:
    settings = before.settings.model_copy(update={"replay_dir": CASES / case})
    lifecycle.up(settings, PARTS)
    return wait_until_replayed(settings)


def test_non_latin_symbols_and_control_messages_pass_the_pipeline(names: Replayed) -> None:
    assert names.problems == []
    # Control messages of a replaced connection are sent on the next one too.
    assert {name: counts.control >= 4 for name, counts in names.producer.streams.items()} == dict.fromkeys(
        ("trade", "markPrice", "forceOrder"), True
    )
    names.wait_for("SELECT count(DISTINCT (symbol, event_time)) FROM cryptolake.bronze.futures_mark_prices", 720)
    names.wait_for("SELECT count(DISTINCT symbol) FROM cryptolake.bronze.futures_liquidations", 2)
    assert names.dead_letters() == REJECTED
    names.wait_for("SELECT count(dead_letter_offset) FROM cryptolake.bronze.futures_trade_gaps", len(REJECTED))
    assert names.rows(REJECTED_GAPS) == [
        {"symbol": symbol, "first_missing_id": trade_id, "ids_missing": 1, "raw_has_id": True, "is_reason": True}
        for symbol, trade_id in REJECTED
    ]
    made, expected_bars = names.bars("2025-11-03", 23, 2), expected("names")
    assert made.keys() == expected_bars.keys()
    assert with_columns_of(made, expected_bars) == expected_bars
    at_23_58 = {symbol: bar["is_complete"] for (symbol, minute), bar in made.items() if minute == "23:58"}
    assert at_23_58 == {
        "BTCUSDT": False,
        "4USDT": False,
        "1000SHIBUSDT": False,  # its ids have a gap there
        "BTCUSDT_251226": True,
        "币安人生USDT": True,
    }
    quarantined = names.rows("SELECT symbol, trade_id, rule FROM cryptolake.silver.futures_trades_quarantine")
    assert quarantined == [{"symbol": "BTCUSDT", "trade_id": 9013, "rule": "price_not_positive"}]
    assert made["BTCUSDT", "23:58"]["trades_dropped"] == 1


def test_eleven_digit_quantity_is_in_its_bar(wide: Replayed) -> None:
    assert wide.problems == []
    assert wide.producer.streams["aggTrade"] == StreamCounts(160, 0, 1), "no socket sends the recorded depth snapshot"
    assert wide.dead_letters() == REJECTED
    made, expected_bars = wide.bars("2025-11-05", 10), expected("wide")
    bar = expected_bars["1000SHIBUSDT", "10:01"]
    bar["volume"] += WIDE_QUANTITY
    bar["quote_volume"] += WIDE_QUANTITY * WIDE_PRICE
    bar["trades"] += 1
    assert with_columns_of(made, expected_bars) == expected_bars
    assert made["1000SHIBUSDT", "10:01"]["is_complete"]


def test_mark_prices_next_to_aggregates_are_all_stored(mark_only: Replayed) -> None:
    assert mark_only.problems == []
    assert mark_only.producer.streams == {"aggTrade": StreamCounts(160, 0, 0), "markPrice": StreamCounts(240, 0, 0)}
    made, expected_bars = mark_only.bars("2025-11-06", 10), expected("mark-only")
    assert with_columns_of(made, expected_bars) == expected_bars
    mark_only.wait_for(
        "SELECT count(*) FROM cryptolake.bronze.futures_mark_prices WHERE event_time >= '2025-11-06'", 240
    )
