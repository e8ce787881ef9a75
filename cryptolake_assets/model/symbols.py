"""Symbols: the exchange's instrument names, such as BTCUSDT, BTCUSDT_251226 or 币安人生USDT. Pure.

The exchange chooses them. All code that reads, checks or writes a symbol uses this definition.
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
_PATH_NAMES: Final = (".", "..")
_CACHE_SIZE: Final = 4_096
_TO_UPPER: Final = str.maketrans(ascii_lowercase, ascii_uppercase)


@lru_cache(_CACHE_SIZE)
def is_symbol(text: str) -> bool:
    """Return whether this is a valid symbol name. Names are compared verbatim, never normalized."""
    return (
        text != ""
        and text not in _PATH_NAMES
        and all(char in _PUNCTUATION or _is_letter_mark_or_digit(char) for char in text)
        and len(text.encode()) <= MAX_SYMBOL_BYTES
    )


def _is_letter_mark_or_digit(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] in "LM" or category == "Nd"


def in_capitals(text: str) -> str:
    """Return a typed symbol in the exchange's spelling, which has no lower-case ASCII letters.

    Other letters are unchanged: their upper case may have another length (ß), and the exchange lists both cases.
    """
    return text.translate(_TO_UPPER)


def stream_name(symbol: str, kind: str) -> str:
    """Return the name of a symbol's stream, such as `btcusdt@aggTrade`.

    Lower-casing loses the symbol's spelling; map a name back through the subscribed symbols.
    """
    return f"{symbol.lower()}@{kind}"


def in_url(name: str) -> str:
    """Return a stream name or symbol escaped for a URL's path or query."""
    return quote(name, safe="@!")
