"""Definition of a stream type, and the reader of its frames. Pure: no I/O, no clock.

To add a stream, write a module with an `EventStream` or `MinuteStream` and an entry in `stream_types`: producer
connections, Kafka topics, the Bronze stream, tables and the Dagster graph are derived from it. This module checks
structure only; Silver checks the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from cryptolake_assets.binance.control_frames import ControlFrame, read_control, read_text
from cryptolake_assets.binance.stream_adapter import Address, combined
from cryptolake_assets.binance.trade_frames import rejected
from cryptolake_assets.model.columns import FUNDING_RATE, LEVEL_PATTERNS, PRICE, QUANTITY, Column, decimal_pattern
from cryptolake_assets.model.events import MAX_ID, MAX_TIME_MS, Event, RejectedFrame
from cryptolake_assets.model.markets import Family, Market, Venue
from cryptolake_assets.model.symbols import MAX_SYMBOL_BYTES, is_symbol
from cryptolake_assets.model.table_spec import TableSpec, kafka_columns

if TYPE_CHECKING:
    from cryptolake_assets.settings import Settings

TimeMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
# Prices, quantities and rates keep the exchange's digits and fit `columns.PRICE`, `QUANTITY` and `FUNDING_RATE`;
# `…OrNone` also accepts the empty string.
Price = Annotated[str, Meta(pattern=rf"\A{decimal_pattern(PRICE)}\Z")]
PriceOrNone = Annotated[str, Meta(pattern=rf"\A(?:{decimal_pattern(PRICE)})?\Z")]
Quantity = Annotated[str, Meta(pattern=rf"\A{decimal_pattern(QUANTITY)}\Z")]
# Not negative: levels of an order book.
BookPrice = Annotated[str, Meta(pattern=rf"\A{LEVEL_PATTERNS[0]}\Z")]
BookQuantity = Annotated[str, Meta(pattern=rf"\A{LEVEL_PATTERNS[1]}\Z")]
UpdateId = Annotated[int, Meta(ge=0, le=MAX_ID)]
RateOrNone = Annotated[str, Meta(pattern=rf"\A(?:{decimal_pattern(FUNDING_RATE)})?\Z")]
Symbol = Annotated[str, Meta(max_length=MAX_SYMBOL_BYTES)]  # `FrameReader` also checks `is_symbol`
Word = Annotated[str, Meta(max_length=64, pattern=r"\A[\x20-\x7e]*\Z")]  # printable ASCII

Parsed = Event | RejectedFrame | ControlFrame


@dataclass(frozen=True)
class Capabilities:
    """Guarantees of a stream in addition to at-least-once delivery."""

    # The producer records the intervals that it received in full, so a minute can be complete; see `venue_adapter`.
    coverage: bool = False
    quarantine: bool = False  # Silver checks each event and quarantines those that break a rule


@dataclass(frozen=True, kw_only=True)
class StreamType:
    """A stream of events: the source of its topic, Bronze queries, follower and assets."""

    name: str
    option: str = ""  # its name in `CRYPTOLAKE_EXTRA_STREAMS`, which the streams of two families share
    is_automatic: bool = True  # `auto` selects it if the replayed capture has it
    family: Family = Family.FUTURES
    markets: frozenset[Market] = frozenset({Market.USD_M})  # that have it
    topic_suffix: str  # appended to the name of the family's topic of trades; empty for the trades
    # Stream kinds, after the symbol in a stream name: `markPrice@1s` in `btcusdt@markPrice@1s`. The default is first.
    kinds: tuple[str, ...] = ()
    bronze: TableSpec  # made by `stream_table`; its contract has `symbol`, `event_time`, `exchange` and `ingest_ts`
    optional: frozenset[str] = frozenset()  # nullable columns of the contract
    identity: tuple[str, ...]  # columns that identify an event; duplicates have equal values
    address: Address = field(default_factory=combined)
    capabilities: Capabilities = Capabilities()
    is_followed: bool = True  # a sensor follows its Bronze table and requests runs of Silver

    @cached_property
    def contract(self) -> tuple[Column, ...]:
        """The columns that are fields of its events, in their order."""
        return self.bronze.columns[: -len(kafka_columns())]

    @property
    def is_trades(self) -> bool:
        """Return whether this is the family's stream of trades."""
        return not self.topic_suffix

    def topic(self, settings: Settings) -> str:
        """Return the Kafka topic."""
        return "_".join(filter(None, (settings.of_family(self.family).topic_trades, self.topic_suffix)))

    def follower_location(self, settings: Settings) -> str:
        """Return the location of its follower's cursor copy."""
        is_default = self.family is Family.FUTURES and not self.topic_suffix
        return settings.follower_location("" if is_default else self.topic_suffix or self.name)

    def url(self, settings: Settings, symbols: tuple[str, ...], kind: str = "") -> str:
        """Return the WebSocket URL that subscribes to the symbols, of one of the `kinds`."""
        return self.address(settings, symbols, kind or self.kinds[0])

    def is_recorded_as(self, name: str) -> bool:
        """Return whether a stream name in a capture, such as `btcusdt@markPrice@1s`, has this type."""
        return name.partition("@")[2] in self.kinds


@dataclass(frozen=True, kw_only=True)
class EventStream(StreamType):
    """A stream whose frames are single events.

    `parser` returns a venue's parser, which takes the bytes of a frame and its receive time, µs since 1970, and never
    raises.
    """

    parser: Callable[[Venue], Callable[[bytes, int], Parsed]]


@dataclass(frozen=True, kw_only=True)
class MinuteStream(EventStream):
    """A stream whose Silver minutes are a SQL query.

    `minutes` is the SQL of Silver's rows per minute, over a relation `events` with the columns of the contract, without
    duplicates. `checks` maps names to predicates that are true for a failing row of Silver, `meanings` maps them to
    descriptions.
    """

    silver: TableSpec
    minutes: str
    counted: str  # the column of Silver with the number of events that a row aggregates
    checks: Mapping[str, str]
    meanings: Mapping[str, str]
    # Whether a symbol has events in every minute, so that a check warns of a minute without a row.
    every_minute: bool = False


class FrameReader:
    """Decoder of combined-stream frames, or their bare data objects, into one struct type."""

    def __init__(self, kind: type[Struct], symbol: str = "symbol") -> None:
        """Create a reader; `symbol` is the struct attribute with the symbol, such as `order.symbol`."""
        combined = msgspec.defstruct(f"Combined{kind.__name__}", [("data", kind)])
        self._combined = msgspec.json.Decoder(combined)
        self._bare = msgspec.json.Decoder(kind)
        self._symbol_of = attrgetter(symbol)

    def read(self, raw: bytes) -> Any:
        """Return the struct, a `ControlFrame`, or a `RejectedFrame` for a frame of another structure."""
        frame = self._decode(raw)
        if isinstance(frame, RejectedFrame | ControlFrame) or is_symbol(symbol := self._symbol_of(frame)):
            return frame
        return rejected(
            raw, f"symbol_format: the symbol is {symbol[: MAX_SYMBOL_BYTES + 1]!r}", msgspec.json.decode(raw)
        )

    def _decode(self, raw: bytes) -> Any:
        try:
            envelope: Any = self._combined.decode(raw)
            return envelope.data
        except (ValueError, RecursionError) as error:
            cause = str(error)
        try:
            return self._bare.decode(raw)
        except (ValueError, RecursionError) as error:
            return _reject(raw, cause, str(error))


def _reject(raw: bytes, in_envelope: str, bare: str) -> RejectedFrame | ControlFrame:
    """Classify a frame that failed to decode, given its errors as an envelope and as a bare data object."""
    try:
        message = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        return read_text(raw) or rejected(raw, f"not_json: {error}")
    if control := read_control(message):
        return control
    if not isinstance(message, dict):
        return rejected(raw, "not_an_object: the frame is not an object")
    return rejected(raw, f"wrong_shape: {in_envelope if 'data' in message else bare}", message)
