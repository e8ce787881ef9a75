"""How to follow the trades of a venue: address, parser, and what its messages let one prove. Pure.

Completeness follows from the declared proof: the producer tracks numbers, claims coverage and repairs gaps accordingly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptolake_assets.binance.stream_adapter import combined
from cryptolake_assets.binance.trade_frames import ParsedTrade, trade_parser
from cryptolake_assets.model.markets import Market, Venue

if TYPE_CHECKING:
    from cryptolake_assets.binance.stream_adapter import Address


class Proof(StrEnum):
    """Proof of completeness that a venue's messages give."""

    DENSE_IDS = "dense_ids"  # each trade has the next id of its symbol: missing ones are known, and can be requested
    SEQUENCE = "sequence"  # each message has the next number of its symbol: a jump shows that messages are missing
    CHECKSUM = "checksum"  # messages carry the checksum of a state, such as a book: it proves the state, not the trades
    NOTHING = "nothing"


TradeParser = Callable[[bytes, int], ParsedTrade]  # (frame, receive time in µs since 1970); never raises


@dataclass(frozen=True)
class VenueAdapter:
    """The trades of a venue.

    With `Proof.SEQUENCE`, a trade's id is the number of its message; a message that is no trade is parsed to an
    `IdWithoutTrade` with its number.
    """

    address: Address
    parser: Callable[[Venue], TradeParser]
    proof: Proof
    barriers: bool  # the response to a request follows all frames that the venue sent before it on the connection

    @property
    def has_numbers(self) -> bool:
        """Return whether trades have consecutive numbers: a jump opens a gap, and numbers prove coverage."""
        return self.proof in (Proof.DENSE_IDS, Proof.SEQUENCE)

    @property
    def has_history(self) -> bool:
        """Return whether missing trades can be requested by their ids."""
        return self.proof is Proof.DENSE_IDS


BINANCE = VenueAdapter(address=combined(), parser=trade_parser, proof=Proof.DENSE_IDS, barriers=True)

ADAPTERS = dict.fromkeys(Market, BINANCE)
