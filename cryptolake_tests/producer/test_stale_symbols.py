"""When a symbol is silent: by its own rate, on the exchange's clock."""

from __future__ import annotations

from cryptolake_assets.producer.stale_symbols import MIN_LIMIT_MS, UNKNOWN_RATE_MS, StaleSymbol, StaleSymbolWatch

START = 1_700_000_000_000
MINUTE = 60_000


def fed(watch: StaleSymbolWatch, symbol: str, gap_ms: int, trades: int) -> tuple[int, int]:
    """Shows a symbol with a trade every `gap_ms`; returns its latest (id, time)."""
    for number in range(trades):
        latest = number, START + number * gap_ms
        assert watch.look(symbol, latest, latest[1]) is None
    return latest


def test_busy_symbol_is_stale_after_a_minute() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    assert watch.look("BTCUSDT", (last_id, last_ms), last_ms + MIN_LIMIT_MS - 1) is None
    found = watch.look("BTCUSDT", (last_id, last_ms), last_ms + MIN_LIMIT_MS)
    assert found == StaleSymbol("BTCUSDT", MIN_LIMIT_MS, MIN_LIMIT_MS)
    assert watch.symbols == ("BTCUSDT",)


def test_a_slow_symbol_has_its_own_limit() -> None:
    watch = StaleSymbolWatch()
    latest = fed(watch, "SLOW", MINUTE, 30)
    assert watch.look("SLOW", latest, latest[1] + 49 * MINUTE) is None
    found = watch.look("SLOW", latest, latest[1] + 51 * MINUTE)
    assert found is not None
    assert found.limit_ms == 50 * MINUTE


def test_the_alarm_is_given_again_each_time_that_the_pause_has_doubled_and_ends_with_a_trade() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    alarms = [
        minutes for minutes in range(1, 20) if watch.look("BTCUSDT", (last_id, last_ms), last_ms + minutes * MINUTE)
    ]
    assert alarms == [1, 2, 4, 8, 16]
    assert watch.look("BTCUSDT", (last_id + 1, last_ms + 20 * MINUTE), last_ms + 20 * MINUTE) is None
    assert watch.symbols == ()


def test_a_symbol_that_never_traded_is_given_its_time_from_when_it_was_followed() -> None:
    watch = StaleSymbolWatch()
    assert watch.look("NEW", None, START) is None
    assert watch.look("NEW", None, START + UNKNOWN_RATE_MS - 1) is None
    assert watch.look("NEW", None, START + UNKNOWN_RATE_MS) == StaleSymbol("NEW", UNKNOWN_RATE_MS, UNKNOWN_RATE_MS)


def test_a_rate_follows_the_market() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    for _ in range(200):  # a quiet night: a trade a minute
        last_id, last_ms = last_id + 1, last_ms + MINUTE
        watch.look("BTCUSDT", (last_id, last_ms), last_ms)
    assert watch.look("BTCUSDT", (last_id, last_ms), last_ms + 30 * MINUTE) is None


def test_symbols_that_are_no_longer_followed_are_forgotten() -> None:
    watch = StaleSymbolWatch()
    last_id, last_ms = fed(watch, "BTCUSDT", 100, 500)
    assert watch.look("BTCUSDT", (last_id, last_ms), last_ms + 2 * MINUTE)
    watch.forget_all_but(frozenset({"ETHUSDT"}))
    assert watch.symbols == ()
