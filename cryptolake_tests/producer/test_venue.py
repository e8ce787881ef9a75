"""Completeness follows from what a venue declares: sequence numbers only, or nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cryptolake_assets.binance.venue_adapter import ADAPTERS, Proof, VenueAdapter
from cryptolake_assets.lake.gap_ledger import OpenBecause
from cryptolake_assets.model.coverage_rows import Evidence
from cryptolake_assets.model.markets import VENUES, Market
from cryptolake_assets.model.windows import MINUTE_MS
from cryptolake_assets.quality.completeness import CompletenessIndex
from cryptolake_tests.support import toy_venue
from cryptolake_tests.support.fakes import NOON_MS, SPOT_TOPIC, until
from cryptolake_tests.support.producing import Stage, stage

PAIR = "BTC-EUR"


def message(sequence: int, after_ms: int, *, price: str | None = "1.5") -> str:
    data = {"pair": PAIR, "seq": sequence, "at": NOON_MS + after_ms, "size": "2", "taker": "sell"}
    return json.dumps(data if price is None else {**data, "price": price})


@asynccontextmanager
async def toy(monkeypatch: pytest.MonkeyPatch, adapter: VenueAdapter = toy_venue.ADAPTER) -> AsyncIterator[Stage]:
    """Run a producer of the toy venue in place of Spot."""
    monkeypatch.setitem(VENUES, Market.SPOT, toy_venue.TOY)
    monkeypatch.setitem(ADAPTERS, Market.SPOT, adapter)
    async with stage(symbols=(PAIR,), market=Market.SPOT) as on:
        await on.opened()
        yield on


def complete_minutes(on: Stage, minutes: int) -> list[int]:
    """Return the minutes after noon that coverage and gap ledger prove complete."""
    offsets = dict.fromkeys(range(10), 10**6)
    index = CompletenessIndex(on.sink.rows, offsets, 0, on.gaps.gaps.values())
    starts = [(minute, NOON_MS + minute * MINUTE_MS) for minute in range(minutes)]
    return [minute for minute, start in starts if index.is_complete("toy", PAIR, "trade", start, start + MINUTE_MS)]


# A message at the start, in the middle and at the end of each minute; every tenth is a heartbeat.
MESSAGES = [
    message(7 + number, number * MINUTE_MS // 3, price=None if number % 10 == 9 else "1.5") for number in range(16)
]


async def test_minutes_of_consecutive_sequence_numbers_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    async with toy(monkeypatch) as on:
        await on.exchange.send(*MESSAGES)
        await until(lambda: complete_minutes(on, 5) == [1, 2, 3, 4])
        assert {(row.exchange, row.evidence) for row in on.sink.rows} == {("toy", Evidence.IDS)}
        assert on.sent(SPOT_TOPIC) == [7 + number for number in range(16) if number % 10 != 9]
        assert on.exchange.paths == [f"/feed/{PAIR}"]
        assert on.exchange.requests == 0, "the venue answers no requests"
        assert on.gaps.gaps == {}


async def test_missing_sequence_number_leaves_its_minute_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    async with toy(monkeypatch) as on:
        await on.exchange.send(*(text for number, text in enumerate(MESSAGES) if number != 7))
        await until(lambda: complete_minutes(on, 5) == [1, 3, 4])
        await until(lambda: [gap.open_because for gap in on.gaps.gaps.values()] == [OpenBecause.NO_HISTORY])
        (gap,) = on.gaps.gaps.values()
        assert (gap.exchange, gap.first_missing_id, gap.last_missing_id) == ("toy", 14, 14)
        await on.exchange.send(message(23, 16 * MINUTE_MS // 3))
        await until(lambda: complete_minutes(on, 6) == [1, 3, 4])
        await on.exchange.send(MESSAGES[7])
        await until(lambda: complete_minutes(on, 5) == [1, 2, 3, 4])


async def test_missing_heartbeat_leaves_its_minute_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    async with toy(monkeypatch) as on:
        await on.exchange.send(*(text for number, text in enumerate(MESSAGES) if number != 9))
        await until(lambda: complete_minutes(on, 5) == [1, 4])


@pytest.mark.parametrize("proof", [Proof.NOTHING, Proof.CHECKSUM])
async def test_without_proof_no_minute_is_complete(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    async with toy(monkeypatch, replace(toy_venue.ADAPTER, proof=proof)) as on:
        await on.exchange.send(*MESSAGES)
        await until(lambda: len(on.sent(SPOT_TOPIC)) == 15)
        assert await on.ended()
        assert (on.sink.rows, on.gaps.gaps) == ([], {})
