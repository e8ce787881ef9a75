"""Symbols: the exchange's names of what it trades, such as BTCUSDT, BTCUSDT_251226 or 币安人生USDT. Pure.

The exchange chooses them. Every room that reads, checks or writes a symbol uses this definition.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase
from typing import Final
from urllib.parse import quote

MAX_SYMBOL_BYTES: Final = 64
SYMBOL_MEANING: Final = f"letters, marks and digits of any script, _ - and ., at most {MAX_SYMBOL_BYTES} bytes of UTF-8"
_PUNCTUATION: Final = frozenset("_-.")
_NOT_NAMES: Final = (".", "..")
_REMEMBERED: Final = 4_096
_IN_CAPITALS: Final = str.maketrans(ascii_lowercase, ascii_uppercase)


@lru_cache(_REMEMBERED)
def is_symbol(text: str) -> bool:
    """Return whether the exchange may list a symbol of this name. Names are compared as they are, never normalized."""
    return (
        text != ""
        and text not in _NOT_NAMES
        and all(char in _PUNCTUATION or _is_letter_mark_or_digit(char) for char in text)
        and len(text.encode()) <= MAX_SYMBOL_BYTES
    )


def _is_letter_mark_or_digit(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] in "LM" or category == "Nd"


def in_capitals(text: str) -> str:
    """Return a symbol that a person typed as the exchange spells it: its symbols have no lower-case ASCII letter.

    Other letters stay: their capitals may be of another length (ß), and the exchange lists symbols with either case.
    """
    return text.translate(_IN_CAPITALS)


def stream_name(symbol: str, kind: str) -> str:
    """Return the name of a symbol's stream, such as `btcusdt@aggTrade`.

    It does not say how the symbol is spelled: look it up among the symbols that were subscribed to.
    """
    return f"{symbol.lower()}@{kind}"


def in_url(name: str) -> str:
    """Return a stream's name or a symbol as it stands in a URL's path or query."""
    return quote(name, safe="@!")
