"""Hostile frames: the parser takes none of them for a trade that the exchange did not send."""

from __future__ import annotations

import pytest

from cryptolake_assets.binance.trade_frames import AcceptedFrame, IdWithoutTrade, parse_frame
from cryptolake_assets.model.hostile_frames import HOSTILE_FRAMES, LARGEST_BYTES, hostile_frame
from cryptolake_tests.support.captures import agg_trade_frame, trade_frame

NOON_MS = 1_700_049_600_000
DAY_MS = 86_400_000


@pytest.mark.parametrize("name", HOSTILE_FRAMES)
def test_no_hostile_frame_is_a_trade_of_the_symbol_at_a_valid_time(name: str) -> None:
    for neighbour in (trade_frame("BTCUSDT", 7, NOON_MS), agg_trade_frame("BTCUSDT", 7, NOON_MS)):
        real = parse_frame(neighbour, 0, "binance_futures")
        parsed = parse_frame(raw(name, neighbour), 0, "binance_futures")
        assert not isinstance(parsed, IdWithoutTrade)
        assert isinstance(real, AcceptedFrame)
        if isinstance(parsed, AcceptedFrame) and parsed.event != real.event:
            is_of_other_time = abs(parsed.event.event_time // 1000 - NOON_MS) > 1000 * DAY_MS
            assert parsed.event.symbol != "BTCUSDT" or is_of_other_time


@pytest.mark.parametrize("neighbour", ['{"result":null,"id":1}', "not JSON", "[" * 100_000])
def test_hostile_frames_follow_any_frame(neighbour: str) -> None:
    for name in HOSTILE_FRAMES:
        parse_frame(raw(name, neighbour), 0, "binance_futures")


def test_frames_at_the_limit_have_its_size() -> None:
    neighbour = agg_trade_frame("BTCUSDT", 7, NOON_MS)
    assert (len(raw("largest", neighbour)), len(raw("too_large", neighbour))) == (LARGEST_BYTES, LARGEST_BYTES + 1)


def raw(name: str, neighbour: str) -> bytes:
    return hostile_frame(name, neighbour, 3).encode("utf-8", "surrogateescape")
