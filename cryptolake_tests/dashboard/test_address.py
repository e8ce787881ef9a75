"""A value in a widget and in the URL: the one that changed last wins."""

from __future__ import annotations

from typing import Any

import pytest

from cryptolake_assets.dashboard import address

KNOWN = {"BTCUSDT", "ETHUSDT"}


def parse(text: str) -> str | None:
    return text.upper() if text.upper() in KNOWN else None


@pytest.mark.parametrize(
    ("url", "written", "in_widget", "expected", "invalid"),
    [
        ("ETHUSDT", None, None, "ETHUSDT", None),
        ("ethusdt", None, "BTCUSDT", "ETHUSDT", None),
        ("ETHUSDT", "ETHUSDT", "BTCUSDT", "BTCUSDT", None),
        ("ETHUSDT", "BTCUSDT", "BTCUSDT", "ETHUSDT", None),
        ("ETHUSDT", "ETHUSDT", None, "ETHUSDT", None),
        ("NOPE", "BTCUSDT", "BTCUSDT", "BTCUSDT", "NOPE"),
        (None, "BTCUSDT", "BTCUSDT", "BTCUSDT", None),
    ],
    ids=["link", "typed", "set in the widget", "back", "after another page", "unknown", "no parameter"],
)
def test_value_that_changed_last_wins(
    url: str | None, written: str | None, in_widget: str | None, expected: str, invalid: str | None
) -> None:
    state: dict[str, Any] = {address.WRITTEN: {"symbol": written}}
    if in_widget is not None:
        state["symbol"] = in_widget
    query = {} if url is None else {"symbol": url}
    assert address.read("symbol", parse, query, state) == invalid
    assert state["symbol"] == expected
