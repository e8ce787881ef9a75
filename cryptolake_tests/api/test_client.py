"""The Python client against a running API."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cryptolake_assets import client
from cryptolake_assets.errors import ApiError
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import Api, serving, starts


def test_bars_are_returned_as_a_frame(shared_api: Api) -> None:
    bars = client.ohlcv("BTCUSDT", start="2025-01-30", end="2025-01-30 23:59:59", url=shared_api.url)
    assert list(bars["window_start"]) == starts()[:4]
    assert bars["volume"][0] == Decimal("0.00000001")


def test_range_beyond_the_limit_is_fetched_in_pages(bars: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(bars), "api_answer_bytes", property(lambda _: 1_500))
    monkeypatch.setattr(client, "PAGE_ROWS", 2)
    with serving(bars) as api:
        table = client.ohlcv("ETHUSDT", frame="arrow", url=api.url)
    assert table["window_start"].to_pylist() == starts()


def test_error_has_the_reason_of_the_rejection(shared_api: Api) -> None:
    with pytest.raises(ApiError, match="no data of NOPE"):
        client.ohlcv("NOPE", url=shared_api.url)
    with pytest.raises(ApiError, match=r"start: .*expected a time"):
        client.ohlcv("BTCUSDT", start="noon", url=shared_api.url)
    with pytest.raises(ApiError, match="cryptolake up"):
        client.ohlcv("BTCUSDT", url="http://127.0.0.1:9")
