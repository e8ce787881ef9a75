"""A choice in a widget and in the URL: whichever was changed last counts."""

from __future__ import annotations

from typing import Any

import pytest

from cryptolake_assets.dashboard import address

KNOWN = {"BTCUSDT", "ETHUSDT"}


def parse(text: str) -> str | None:
    return text.upper() if text.upper() in KNOWN else None


@pytest.mark.parametrize(
    ("url", "written", "held", "then", "unread"),
    [
        ("ETHUSDT", None, None, "ETHUSDT", None),
        ("ethusdt", None, "BTCUSDT", "ETHUSDT", None),
        ("ETHUSDT", "ETHUSDT", "BTCUSDT", "BTCUSDT", None),
        ("ETHUSDT", "BTCUSDT", "BTCUSDT", "ETHUSDT", None),
        ("ETHUSDT", "ETHUSDT", None, "ETHUSDT", None),
        ("NOPE", "BTCUSDT", "BTCUSDT", "BTCUSDT", "NOPE"),
        (None, "BTCUSDT", "BTCUSDT", "BTCUSDT", None),
    ],
    ids=["a link", "typed", "chosen in the widget", "Back", "another page was shown", "unknown", "no parameter"],
)
def test_who_says_what_the_choice_is(
    url: str | None, written: str | None, held: str | None, then: str, unread: str | None
) -> None:
    state: dict[str, Any] = {address.WRITTEN: {"symbol": written}}
    if held is not None:
        state["symbol"] = held
    query = {} if url is None else {"symbol": url}
    assert address.asked("symbol", parse, query, state) == unread
    assert state["symbol"] == then
