"""The exchange's published files in a capture directory: klines, aggregates and exchangeInfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryptolake_assets.captures.published_files import read_agg_trade_files, read_exchange_info
from cryptolake_assets.captures.reader import read_klines
from cryptolake_assets.errors import CaptureError
from cryptolake_assets.model.exchange_records import AggTrade, Kline
from cryptolake_assets.settings import DEMO_CAPTURE_DIR

HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
ROW = "60000,1.10,2.00,0.5,1.50,10.0,119999,15.000,3,4,6.0,0"


def test_shipped_klines_are_verbatim_and_sorted() -> None:
    klines = read_klines(DEMO_CAPTURE_DIR, "BTCUSDT", "1m")
    assert len(klines) == 11
    assert klines[0] == Kline(
        open_time_ms=1_721_346_960_000,
        open="63930.30",
        high="63930.40",
        low="63926.90",
        close="63930.30",
        volume="11.123",
        close_time_ms=1_721_347_019_999,
        quote_volume="711083.59740",
        trades=374,
        taker_buy_volume="2.836",
        taker_buy_quote_volume="181300.87580",
    )
    times = [kline.open_time_ms for kline in klines]
    assert times == sorted(times)
    assert read_klines(DEMO_CAPTURE_DIR, "BTCUSDT", "5m") == []
    assert read_klines(DEMO_CAPTURE_DIR, "BTC", "1m") == []


def test_conflicting_kline_files_are_rejected(tmp_path: Path) -> None:
    later = ROW.replace("60000,", "120000,", 1)
    (tmp_path / "BTCUSDT-1m-a.csv").write_text(f"{HEADER}\n{later}\n{ROW}\n")
    (tmp_path / "BTCUSDT-1m-b.csv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "BTCUSDT-1m-c.csv").write_text("something,else\n1,2\n")
    assert [kline.open_time_ms for kline in read_klines(tmp_path, "BTCUSDT", "1m")] == [60_000, 120_000]
    (tmp_path / "BTCUSDT-1m-b.csv").write_text(f"{HEADER}\n{ROW.replace('1.50', '1.51')}\n")
    with pytest.raises(CaptureError, match=r"BTCUSDT-1m-b\.csv, line 2: another file has a different kline"):
        read_klines(tmp_path, "BTCUSDT", "1m")


@pytest.mark.parametrize("row", ["60000,1.10", ROW.replace("1.10", "NaN"), ROW.replace("60000", "6e4"), "x" + ROW])
def test_invalid_kline_row_is_rejected(tmp_path: Path, row: str) -> None:
    (tmp_path / "BTCUSDT-1m-a.csv").write_text(f"{HEADER}\n{ROW}\n{row}\n")
    with pytest.raises(CaptureError, match=r"BTCUSDT-1m-a\.csv, line 3: .*expected"):
        read_klines(tmp_path, "BTCUSDT", "1m")


def test_aggregates_are_read_with_and_without_header(tmp_path: Path) -> None:
    (tmp_path / "ETHUSDT-aggTrades-2024-07-18.csv").write_text("7,3424.98,0.007,11,12,1721347022707,true\n")
    (tmp_path / "BTCUSDT-aggTrades-2024-07-18.csv").write_text(
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
        "480537903,79972.8,542.0,1123474160,1123474164,1778198400020,False\n"
    )
    assert list(read_agg_trade_files(tmp_path)) == [
        ("BTCUSDT", AggTrade(480_537_903, "79972.8", "542.0", 1_123_474_160, 1_123_474_164, 1_778_198_400_020, False)),
        ("ETHUSDT", AggTrade(7, "3424.98", "0.007", 11, 12, 1_721_347_022_707, True)),
    ]
    (tmp_path / "ETHUSDT-aggTrades-2024-07-18.csv").write_text("8,0.00,0.0,-1,-1,1721347022707,false\n")
    assert list(read_agg_trade_files(tmp_path))[1:] == [
        ("ETHUSDT", AggTrade(8, "0.00", "0.0", -1, -1, 1_721_347_022_707, False))
    ]
    (tmp_path / "ETHUSDT-aggTrades-2024-07-18.csv").write_text("7,3424.98,0.007,11,12,1721347022707,maybe\n")
    with pytest.raises(CaptureError, match="is_buyer_maker is 'maybe'"):
        list(read_agg_trade_files(tmp_path))


def test_exchange_info_keeps_rows_with_a_symbol_and_rejects_damaged_files(tmp_path: Path) -> None:
    assert read_exchange_info(tmp_path) is None
    path = tmp_path / "exchangeInfo.json"
    path.write_text('{"symbols":[{"symbol":"BTCUSDT"}]}')
    assert read_exchange_info(tmp_path) == {"symbols": [{"symbol": "BTCUSDT"}]}
    path.write_text('{"symbols":[{"symbol":1},{"symbol":"BTCUSDT"},null]}')
    assert read_exchange_info(tmp_path) == {"symbols": [{"symbol": "BTCUSDT"}]}
    for damaged in ("{", "[]", "{}", '{"symbols":[{"symbol":1}]}', '{"symbols":[1]}'):
        path.write_text(damaged)
        with pytest.raises(CaptureError, match="is not an exchangeInfo document"):
            read_exchange_info(tmp_path)
