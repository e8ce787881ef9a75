"""The quarantine's cursor moves also beside maintenance of its table."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.commit import set_properties
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform import quarantine
from cryptolake_assets.transform.quarantine import CURSOR_PROPERTY, advance_quarantine
from cryptolake_tests.support.bronze import append, trade

NOW = datetime(2024, 7, 18, 12, tzinfo=UTC)


def test_cursor_moves_after_a_commit_of_another_writer(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = append(lake, [trade(NOW, 1)])
    table = load_table(lake, FUTURES.quarantine)
    set_properties(load_table(lake, FUTURES.quarantine), {"maintained": "true"})
    monkeypatch.setattr(quarantine, "load_table", lambda *_: table)
    rules = RuleContext(
        exchanges=("binance_futures",),
        symbols=(("binance_futures", "BTCUSDT"),),
        earliest=NOW.replace(hour=0),
        latest=NOW.replace(hour=23),
        quarantined=(),
    )
    assert advance_quarantine(lake, load_table(lake, FUTURES.trades), rules, "run") == 0
    found = load_table(lake, FUTURES.quarantine).properties
    assert found[CURSOR_PROPERTY] == str(sequence)
    assert found["maintained"] == "true"
