"""Stale symbols, by their own rate and the exchange's clock."""

from __future__ import annotations

from cryptolake_assets.producer.stale_symbols import MIN_LIMIT_MS, UNKNOWN_RATE_MS, StaleSymbol, StaleSymbolWatch

START = 1_700_000_000_000
MINUTE = 60_000


def fed(watch: StaleSymbolWatch, symbol: str, interval_ms: int, trades: int) -> tuple[int, int]:
    """Feed a symbol with a trade every `interval_ms`; return its latest (id, time)."""
    for number in range(trades):
        latest = number, START + number * interval_ms
        assert watch.check(symbol, latest, latest[1]) is None
    return latest


def test_busy_symbol_is_stale_after_a_minute() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    assert watch.check("BTCUSDT", (last_id, last_ms), last_ms + MIN_LIMIT_MS - 1) is None
    found = watch.check("BTCUSDT", (last_id, last_ms), last_ms + MIN_LIMIT_MS)
    assert found == StaleSymbol("BTCUSDT", MIN_LIMIT_MS, MIN_LIMIT_MS)
    assert watch.symbols == ("BTCUSDT",)


def test_slow_symbol_has_a_longer_limit() -> None:
    watch = StaleSymbolWatch()
    latest = fed(watch, "SLOW", MINUTE, 30)
    assert watch.check("SLOW", latest, latest[1] + 49 * MINUTE) is None
    found = watch.check("SLOW", latest, latest[1] + 51 * MINUTE)
    assert found is not None
    assert found.limit_ms == 50 * MINUTE


def test_alarm_repeats_each_time_the_pause_doubles_and_ends_with_a_trade() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    alarms = [
        minutes for minutes in range(1, 20) if watch.check("BTCUSDT", (last_id, last_ms), last_ms + minutes * MINUTE)
    ]
    assert alarms == [1, 2, 4, 8, 16]
    assert watch.check("BTCUSDT", (last_id + 1, last_ms + 20 * MINUTE), last_ms + 20 * MINUTE) is None
    assert watch.symbols == ()


def test_symbol_without_any_trade_is_measured_from_its_first_check() -> None:
    watch = StaleSymbolWatch()
    assert watch.check("NEW", None, START) is None
    assert watch.check("NEW", None, START + UNKNOWN_RATE_MS - 1) is None
    assert watch.check("NEW", None, START + UNKNOWN_RATE_MS) == StaleSymbol("NEW", UNKNOWN_RATE_MS, UNKNOWN_RATE_MS)


def test_limit_adapts_to_a_slower_rate() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    for _ in range(200):  # slow market: a trade per minute
        last_id, last_ms = last_id + 1, last_ms + MINUTE
        watch.check("BTCUSDT", (last_id, last_ms), last_ms)
    assert watch.check("BTCUSDT", (last_id, last_ms), last_ms + 30 * MINUTE) is None


def test_symbol_that_is_no_longer_tracked_is_forgotten() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    assert watch.check("BTCUSDT", (last_id, last_ms), last_ms + 2 * MINUTE)
    watch.forget_all_but(frozenset({"ETHUSDT"}))
    assert watch.symbols == ()
