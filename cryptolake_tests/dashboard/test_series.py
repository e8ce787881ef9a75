"""Messages to the chart: exact numbers, and every bar regardless of lost messages."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.dashboard.series import (
    MAX_CHANGED,
    Feed,
    Row,
    aligned,
    exact,
    fixed,
    grouped,
    places,
    plain,
    price_places,
    right_aligned,
    rows,
    texts_by_float,
)
from cryptolake_assets.model.bar_state import BarState

DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**9, places=8).map(
    lambda number: f"{number:f}"
)


def row(minute: int, close: str = "1", *, state: str = "final") -> Row:
    return (60 * minute, "1", "1", "1", close, "2", "1", 3, state)


class Browser:
    """A model of `chart/chart.js`: takes the full series once per generation, then the changes."""

    def __init__(self) -> None:
        self.generation = ""
        self.bars: dict[int, Row] = {}
        self.draws = 0

    def take(self, message: dict[str, Any]) -> bool:
        """Return False if the browser needs the full series."""
        if message["generation"] != self.generation:
            if message["rows"] is None:
                return False
            self.generation, self.bars = message["generation"], {bar[0]: bar for bar in message["rows"]}
            self.draws += 1
        self.bars |= {bar[0]: bar for bar in message["changed"]}
        return True


@given(st.lists(DECIMALS, min_size=1))
def test_aligned_numbers_keep_their_values_and_have_equal_decimals(numbers: list[str]) -> None:
    column = aligned(numbers)
    assert [Decimal(text) for text in column] == [Decimal(text) for text in numbers]
    assert len({len(text.partition(".")[2]) for text in column}) == 1
    assert all("e" not in text.lower() for text in column)
    assert places(numbers) == max(len(plain(text).partition(".")[2]) for text in numbers)


def test_numbers_are_formatted_with_every_digit() -> None:
    assert plain("63943.90000000") == "63943.9"
    assert plain("100") == "100"
    assert plain("0.00000001") == "0.00000001"
    assert fixed("63943.90000000", 2) == "63943.90"
    assert fixed("5.00000000", 0) == "5"
    assert aligned(["1.50", None, "2.25"]) == ["1.50", "", "2.25"]
    assert exact(1e-10) == "0.0000000001"
    assert exact(None) == ""
    assert exact("67123.4500000001") == "67123.4500000001"


def test_numbers_have_thousands_separators() -> None:
    assert [grouped(text) for text in ("63943.90", "-1234567", "-0.50", "999")] == [
        *("63,943.90", "-1,234,567", "-0.50", "999"),
    ]
    assert grouped("1234567890123456789012.1234567890123456") == "1,234,567,890,123,456,789,012.1234567890123456"


@given(st.lists(DECIMALS, min_size=1))
def test_column_sorted_as_text_is_sorted_by_its_numbers(numbers: list[str]) -> None:
    column = right_aligned([grouped(number) for number in aligned(numbers)])
    assert [Decimal(text.strip().replace(",", "")) for text in sorted(column)] == sorted(
        Decimal(text) for text in numbers
    )
    assert len(set(map(len, column))) == 1


def test_texts_are_keyed_by_floats_only_if_unambiguous() -> None:
    assert texts_by_float(["-0.5", "", "0.0000000001"]) == {-0.5: "-0.5", 1e-10: "0.0000000001"}
    assert texts_by_float(["-0.1000000000000000000", "-0.1000000000000000001"]) is None
    assert texts_by_float(["-9007199254740993"]) is None


def test_bars_become_rows_of_the_chart() -> None:
    bar = {
        **dict.fromkeys(("open", "high", "low"), "63943.90000000"),
        **{"close": "63952.65000000", "window_start": "2024-07-18T23:57:00Z", "volume": "24.11500000"},
        **{"vwap": "63947.83210865", "trades": 291, "state": "provisional"},
    }
    assert price_places([bar]) == 2
    assert rows([bar]) == [
        (1721347020, "63943.9", "63943.9", "63943.9", "63952.65", "24.115", "63947.83210865", 291, "provisional")
    ]


def test_full_series_is_sent_once_and_then_only_changes() -> None:
    feed = Feed()
    first = feed.message(("BTCUSDT",), [row(1), row(2)])
    assert first["rows"] == [row(1), row(2)]
    assert first["changed"] == []
    second = feed.message(("BTCUSDT",), [row(1), row(2, "5"), row(3)])
    assert second["rows"] is None
    assert second["changed"] == [row(2, "5"), row(3)]
    assert second["generation"] == first["generation"]


def test_late_change_of_an_old_bar_is_sent() -> None:
    feed = Feed()
    feed.message(("BTCUSDT",), [row(minute) for minute in range(100)])
    late = [row(minute, "7" if minute == 3 else "1") for minute in range(100)]
    assert feed.message(("BTCUSDT",), late)["changed"] == [row(3, "7")]


def test_other_symbol_or_range_or_removed_bar_starts_a_new_series() -> None:
    feed = Feed()
    browser = Browser()
    for about, bars in (
        (("BTCUSDT",), [row(1), row(2)]),
        (("ETHUSDT",), [row(1)]),
        (("ETHUSDT",), []),
        (("ETHUSDT",), [row(5), row(6), row(7)]),
        (("ETHUSDT",), [row(5), row(7)]),
    ):
        assert browser.take(feed.message(about, bars))
        assert sorted(browser.bars) == [bar[0] for bar in bars]
    assert browser.draws == 5


def test_too_many_changes_start_a_new_series() -> None:
    feed, browser = Feed(), Browser()
    browser.take(feed.message(("A",), [row(1)]))
    many = [row(minute) for minute in range(1, MAX_CHANGED + 3)]
    message = feed.message(("A",), many)
    assert message["rows"] == many
    assert browser.take(message)
    assert len(browser.bars) == len(many)


def test_moving_window_sends_only_new_bars() -> None:
    feed = Feed()
    feed.message(("A",), [row(minute) for minute in range(10)])
    message = feed.message(("A",), [row(minute) for minute in range(3, 13)])
    assert message["rows"] is None
    assert message["changed"] == [row(10), row(11), row(12)]


def test_restarted_feed_uses_new_generation_names() -> None:
    browser = Browser()
    assert browser.take(Feed().message(("A",), [row(1)]))
    restarted = Feed()
    message = restarted.message(("A",), [row(1), row(2)])
    assert message["generation"] != browser.generation
    assert browser.take(message)
    assert sorted(browser.bars) == [60, 120]


Steps = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 30), st.tuples(st.sampled_from("123"), st.sampled_from(BarState)), max_size=12),
        st.booleans(),
        st.booleans(),
    ),
    max_size=15,
)


@given(Steps)
def test_last_message_shows_the_table_regardless_of_lost_messages(
    steps: list[tuple[dict[int, tuple[str, str]], bool, bool]],
) -> None:
    feed, browser = Feed(), Browser()
    table: dict[int, Row] = {}
    for changes, arrives, page_run in [*steps, ({}, True, False)]:
        table |= {minute: row(minute, close, state=state) for minute, (close, state) in changes.items()}
        bars = [table[minute] for minute in sorted(table)]
        if page_run:
            feed.rewind()
        message = feed.message(("A",), bars)
        if not arrives:
            continue
        if not browser.take(message):
            feed.rewind()
            assert browser.take(feed.message(("A",), bars))
    assert browser.bars == {bar[0]: bar for bar in table.values()}
