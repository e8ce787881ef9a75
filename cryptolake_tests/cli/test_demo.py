"""The output of the demo about its bars; integration/test_demo_pages.py runs the complete demo."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from cryptolake_assets.cli.demo import last_change, show_bars, show_daily, unsettled_frames
from cryptolake_assets.model.exchange_records import KLINE_HEADER
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import EXCHANGES, Family, Market
from cryptolake_assets.producer.status_file import StreamCounts
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings
from cryptolake_tests.support.api import append, bar, put, starts
from cryptolake_tests.support.captures import shifted_capture
from cryptolake_tests.support.exchanges import ExchangeThread
from cryptolake_tests.support.three_markets import copied


def test_demo_reports_a_capture_without_official_klines(lake: Settings, tmp_path: Path) -> None:
    put(lake, [bar("SOLUSDT", start, exchange="binance_futures") for start in starts()[:2]])
    capture = shifted_capture(DEMO_CAPTURE_DIR, tmp_path / "capture", {"BTCUSDT": "SOLUSDT"}, 0, 1, "0.002")
    output = io.StringIO()
    with ExchangeThread(capture, clock_ms=int(starts()[-1].timestamp() * 1000)) as exchange:
        settings = lake.model_copy(update={"exchange_rest_url": exchange.url})
        show_bars(settings, Console(file=output, width=200))
    lines = output.getvalue().splitlines()
    assert len([line for line in lines if "SOLUSDT" in line and "no official bar" in line]) == 2
    assert lines[-1] == "2 of 2 bars are complete. The capture has no official klines"


def test_demo_shows_the_bars_of_each_market_with_its_klines(lake: Settings, tmp_path: Path) -> None:
    """USD-M and Spot share the symbol; only Spot has klines, which equal one bar and differ from the other."""
    capture = copied(tmp_path / "capture", *Market)
    first, second = starts()[:2]
    equal = bar("BTCUSDT", first, exchange="binance_spot")
    lines = [",".join(KLINE_HEADER), _kline(equal), _kline({**equal, "window_start": second})]
    (capture / "spot" / "BTCUSDT-1m-2025-01-30.csv").write_text("\n".join(lines) + "\n")
    append(lake, FAMILY_TABLES[Family.SPOT].bars, [equal, bar("BTCUSDT", second, exchange="binance_spot")])
    of_futures = {"binance_futures": "BTCUSDT", "binance_futures_coin": "BTCUSD_PERP"}
    append(
        lake,
        FAMILY_TABLES[Family.FUTURES].bars,
        [bar(symbol, first, exchange=name, is_complete=False) for name, symbol in of_futures.items()],
    )
    output = io.StringIO()
    with ExchangeThread(capture, clock_ms=int(starts()[-1].timestamp() * 1000)) as exchange:
        settings = lake.model_copy(update={"exchange_rest_url": exchange.url, "markets": tuple(Market)})
        show_bars(settings, Console(file=output, width=200))
        show_daily(settings, Console(file=output, width=200))
    rows = [" ".join(line.split()) for line in output.getvalue().splitlines() if "01-30" in line]
    assert len(rows) == 4
    for row, (name, symbol) in zip(rows, of_futures.items(), strict=False):
        assert row.startswith(f"{EXCHANGES[name].market} {symbol} 01-30 00:00 ")
        assert row.endswith(" no no official bar")
    assert [row.partition(" 01-30 ")[0] for row in rows[2:]] == ["spot BTCUSDT"] * 2
    assert rows[2].endswith(" yes equal")
    assert " yes differs: open " in rows[3]
    assert "1 of 2 complete bars equal the official klines" in output.getvalue()


def _kline(row: dict[str, Any]) -> str:
    open_ms = int(row["window_start"].timestamp() * 1000)
    prices = [f"{row[name]:f}" for name in ("open", "high", "low", "close", "volume")]
    traded = [f"{row['quote_volume']:f}", str(row["trades"])]
    bought = [f"{row['taker_buy_volume']:f}", f"{row['taker_buy_quote_volume']:f}"]
    return ",".join([str(open_ms), *prices, str(open_ms + 59_999), *traded, *bought, "0"])


def test_unsettled_frames_are_counted_by_stream() -> None:
    sent = {"aggTrade": 160, "markPrice@1s": 240, "forceOrder": 0}
    streams = {"aggTrade": StreamCounts(158, 1, 1), "markPrice": StreamCounts(200, 0, 0)}
    assert unsettled_frames(sent, streams) == {"markPrice@1s": 40}
    assert unsettled_frames(sent, {"aggTrade": StreamCounts(10, 0, 0)}) == {"aggTrade": 150, "markPrice@1s": 240}
    assert unsettled_frames(sent, {**streams, "markPrice": StreamCounts(0, 0, 240)}) == {}


def test_last_change_is_the_first_materialization_of_the_current_version() -> None:
    assert last_change([]) is None
    assert last_change([(9.0, "b"), (7.0, "b"), (5.0, "a"), (3.0, "b")]) == 7.0
    assert last_change([(9.0, "b")]) == 9.0
    assert last_change([(9.0, None), (7.0, None)]) == 7.0, "materializations of an earlier release have no version"
