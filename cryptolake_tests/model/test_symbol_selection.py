"""Symbol selection by name, pattern and volume rank."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.binance.rest_responses import SymbolInfo
from cryptolake_assets.model.symbol_selection import SymbolSelection, parse_selection

LISTED = [
    SymbolInfo("BTCUSDT", "TRADING", quote_asset="USDT"),
    SymbolInfo("ETHUSDT", "TRADING", quote_asset="USDT"),
    SymbolInfo("SOLUSDT", "TRADING", quote_asset="USDT"),
    SymbolInfo("OLDUSDT", "SETTLING", quote_asset="USDT"),
    SymbolInfo("BTCUSDC", "TRADING", quote_asset="USDC"),
    SymbolInfo("1000PEPEUSDC", "TRADING", quote_asset="USDC"),
    SymbolInfo("BTCUSDT_261225", "TRADING", quote_asset="USDT"),
    SymbolInfo("币安人生USDT", "TRADING", quote_asset="币安"),
]
VOLUMES = {
    "BTCUSDT": Decimal("900.5"),
    "ETHUSDT": Decimal("1000"),
    "SOLUSDT": Decimal("30"),
    "OLDUSDT": Decimal("99999"),
    "币安人生USDT": Decimal("7"),
    "BTCUSDC": Decimal("99"),
}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["SOLUSDT", "BTCUSDT"], ("SOLUSDT", "BTCUSDT")),
        (["NOTLISTED"], ("NOTLISTED",)),
        (["*USDC"], ("1000PEPEUSDC", "BTCUSDC")),
        (["BTCUSD?"], ("BTCUSDC", "BTCUSDT")),
        (["BTC*", "BTCUSDT"], ("BTCUSDT", "BTCUSDC", "BTCUSDT_261225")),
        (["TOP:2"], ("ETHUSDT", "BTCUSDT")),
        (["TOP:9:USDC"], ("BTCUSDC",)),
        (["OLD*"], ()),
        (["币安人生USDT"], ("币安人生USDT",)),
        (["币?人*"], ("币安人生USDT",)),
        (["*_261225"], ("BTCUSDT_261225",)),
        (["TOP:1:币安"], ("币安人生USDT",)),
        (["SOLUSDT", "TOP:1", "*PEPE*"], ("SOLUSDT", "1000PEPEUSDC", "ETHUSDT")),
    ],
)
def test_selection_resolves_to_symbols(items: list[str], expected: tuple[str, ...]) -> None:
    assert parse_selection(items).resolve(LISTED, VOLUMES) == expected


@pytest.mark.parametrize(
    "item", ["b t c", "BTC/USDT", "TOP:0", "TOP:", "TOP:5:", "top:5:usdt", "BTCUSDT:5", "", ".", "A,*", "TOP:5:U T"]
)
def test_invalid_selection_is_rejected(item: str) -> None:
    with pytest.raises(ValueError, match="is not a symbol"):
        parse_selection([item])


def test_names_need_no_listing() -> None:
    assert parse_selection([]) == SymbolSelection()
    assert not parse_selection(["BTCUSDT"]).needs_listing
    assert parse_selection(["BTC*"]).needs_listing
    assert parse_selection(["TOP:5"]).needs_listing


@given(
    volumes=st.dictionaries(st.sampled_from([f"S{number}" for number in range(30)]), st.decimals(0, 10**6, places=2)),
    tracked=st.sets(st.sampled_from([f"S{number}" for number in range(30)])),
    number=st.integers(1, 12),
)
def test_top_n_has_n_symbols_and_keeps_tracked_ones_near_the_edge(
    volumes: dict[str, Decimal], tracked: set[str], number: int
) -> None:
    listed = [SymbolInfo(f"S{one}", "TRADING", quote_asset="USDT") for one in range(30)]
    selection = parse_selection([f"TOP:{number}"])
    found = selection.resolve(listed, volumes, tracked)
    assert len(found) == len(set(found)) == min(number, len(volumes))
    ranked = sorted(volumes, key=lambda one: (-volumes[one], one))
    within_hysteresis = set(ranked[: number + -(-number // 5)])
    assert set(found) <= within_hysteresis
    # A tracked symbol within the hysteresis stays, unless tracked symbols take all places.
    assert not (tracked & within_hysteresis) - set(found) or set(found) <= tracked
    assert selection.resolve(listed, volumes, found) == tuple(found) or set(
        selection.resolve(listed, volumes, found)
    ) == set(found)
