"""Suggestions of known names for a mistyped one, for error messages. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Final

MAX_NAMED: Final = 3
MIN_SCORE: Final = 0.6  # difflib's default cutoff for close matches
MAX_SCORE_DROP: Final = 0.15  # names that score lower than the best one by more than this are not suggested
_SEPARATOR: Final = re.compile(r"[./]")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `Did you mean x or y?` with the nearest names; empty if none is similar."""
    names = nearest(name, known)
    *others, last = names or [""]
    listed = f"{', '.join(others)} or {last}" if others else last
    return f"Did you mean {listed}?" if names else ""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three known names similar to a name, the nearest first.

    Names in parts, such as `silver/futures_ohlcv_1m` or `cryptolake.silver.futures_ohlcv_1m`, are compared by as many
    trailing parts as were typed; names with the same last part exclude others.
    """
    typed, depth = ".".join(_parts(name)), len(_parts(name))
    tails = {item: ".".join(_parts(item)[-depth:]) for item in known}
    scores = {item: SequenceMatcher(None, typed, tail).ratio() for item, tail in tails.items()}
    bound = max([MIN_SCORE, *(score - MAX_SCORE_DROP for score in scores.values())])
    close = [item for item, score in scores.items() if score >= bound or (typed and typed in tails[item])]
    # Only the other parts were mistyped.
    close = [item for item in close if _parts(item)[-1:] == _parts(name)[-1:]] or close
    return sorted(close, key=lambda item: (-scores[item], item))[:MAX_NAMED]


def _parts(name: str) -> list[str]:
    return _SEPARATOR.split(name.casefold().strip("./"))
