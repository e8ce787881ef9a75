"""Symbols: valid names, and their spelling in stream names and URLs."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.model.symbols import MAX_SYMBOL_BYTES, in_capitals, in_url, is_symbol, stream_name

SYMBOLS = (
    *("BTCUSDT", "4USDT", "1000SHIBUSDT", "BTCUSDT_251226", "BTCUSD_PERP", "A-B", "A.B", "...", "x" * 64),
    *("币安人生USDT", "ไทยUSDT", "नमस्तेUSDT", "٣USDT", "ßUSDT", "é" * 32, "e\u0301USDT"),
)
OTHER_TEXTS = (
    *("", ".", "..", "BTC USDT", "BTC/USDT", "BTC\\USDT", "'; --", 'A"B', "A\nB", "A\x00B", "A@B", "A,B", "A%B"),
    *("A*B", "A?B", "A\u200bB", "A💥B", "½USDT", "x" * 65, "币" * 22, "\ud800"),
)


@pytest.mark.parametrize("name", SYMBOLS)
def test_names_in_any_script_are_symbols(name: str) -> None:
    assert is_symbol(name)


@pytest.mark.parametrize("name", OTHER_TEXTS)
def test_other_texts_are_not_symbols(name: str) -> None:
    assert not is_symbol(name)


@given(st.text(max_size=70))
def test_symbol_contains_only_letters_marks_digits_and_three_signs(name: str) -> None:
    kinds = {unicodedata.category(char)[0] for char in name if char not in "_-."} - {"L", "M"}
    is_valid = not kinds - {"N"} and all(unicodedata.category(char) == "Nd" for char in name if char.isnumeric())
    if is_symbol(name):
        assert not kinds - {"N"}
        assert len(name.encode()) <= MAX_SYMBOL_BYTES
    elif name not in ("", ".", "..") and is_valid:
        numbers = [char for char in name if unicodedata.category(char) in ("Nl", "No")]
        assert numbers or len(name.encode()) > MAX_SYMBOL_BYTES


@pytest.mark.parametrize(
    ("typed", "spelled"),
    [("btcusdt", "BTCUSDT"), ("币安人生usdt", "币安人生USDT"), ("ßusdt", "ßUSDT"), ("BTCUSDT", "BTCUSDT")],
)
def test_only_ascii_letters_are_upper_cased(typed: str, spelled: str) -> None:
    assert in_capitals(typed) == spelled


def test_stream_name_is_percent_encoded_in_a_url() -> None:
    assert in_url(stream_name("币安人生USDT", "aggTrade")) == "%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9Fusdt@aggTrade"
    assert in_url(stream_name("BTCUSDT", "markPrice@1s")) == "btcusdt@markPrice@1s"
