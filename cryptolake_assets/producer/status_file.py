"""The producer's status file, `<run_dir>/producer.json`: the producer writes it every second, `status` reads it."""

from __future__ import annotations

import os
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from cryptolake_assets.model.markets import EXCHANGES, VENUES, Family, Market
from cryptolake_assets.settings import Settings

MAX_SYMBOLS_SHOWN: Final = 200
NAMED_IN_MESSAGES: Final = 5


class ConnectionStatus(msgspec.Struct, frozen=True):
    """One WebSocket connection."""

    name: str
    state: str
    symbols: int
    frames: int  # messages received since it was opened
    reconnects: int


class StreamCounts(msgspec.Struct, frozen=True):
    """Frames of one stream by outcome."""

    accepted: int = 0  # converted to events; Kafka has acknowledged all that are not in flight
    rejected: int = 0  # sent to the dead-letter topic
    control: int = 0  # control messages of the exchange, without responses to the producer's own requests

    @property
    def settled(self) -> int:
        """Frames of all three kinds."""
        return self.accepted + self.rejected + self.control

    def __add__(self, other: StreamCounts) -> StreamCounts:
        return StreamCounts(
            self.accepted + other.accepted, self.rejected + other.rejected, self.control + other.control
        )


class RejectedSymbol(msgspec.Struct, frozen=True):
    """A symbol with rejected frames and none accepted since."""

    frames: int
    reason: str  # of the latest one


class MarketState(StrEnum):
    """Whether the producer follows a market."""

    STREAMING = "streaming"
    WAITING = "waiting_for_exchange"  # its exchange has not responded since the producer started
    REJECTED = "symbols_rejected"  # its exchange responded late, and does not offer the tracked symbols


class MarketStatus(msgspec.Struct, frozen=True):
    """One market's trades. Times are ms since 1970, UTC; counts are since the process started."""

    state: MarketState
    stream: str = ""  # `trade` or `aggTrade`
    symbols: int = 0
    connections: tuple[ConnectionStatus, ...] = ()
    connections_replaced: int = 0  # by a successor
    frames: int = 0  # messages taken from the connections, of any kind
    streams: dict[str, StreamCounts] = {}  # by stream, such as `aggTrade` and `markPrice`
    queued_frames: int = 0
    last_event_time_ms: int | None = None  # trade time of the newest event
    exchange_time_ms: int | None = None  # exchange clock at the last request
    # End of the written coverage per symbol (of the first `MAX_SYMBOLS_SHOWN`).
    coverage_to_ms: dict[str, int] = {}
    ids_missing: int = 0  # missing trades of all open gaps
    # Symbols (at most `MAX_SYMBOLS_SHOWN` per stream) whose frames are being rejected.
    rejecting: dict[str, RejectedSymbol] = {}
    stale_symbols: tuple[str, ...] = ()  # at most `MAX_SYMBOLS_SHOWN`


class ProducerStatus(msgspec.Struct, frozen=True):
    """The producer's status: that of each market, and what the markets share."""

    state: str  # `starting`, `waiting_for_broker`, `streaming`, `draining`, `stopped` or `failed`
    pid: int
    markets: dict[Market, MarketStatus]
    events_acked: int  # trades that Kafka has acknowledged
    rejected: int  # rejected frames that Kafka has acknowledged on the dead-letter topics
    messages_resent: int  # messages resent after a failure; Silver removes the duplicates
    in_flight: int
    coverage_failures: int  # failed coverage writes since the last success
    updated_at_ms: int

    def exchange_time_ms(self, exchange: str) -> int | None:
        """Return the clock of an exchange, such as `binance_spot`, at the last request; None if it is unknown."""
        of_market = self.markets.get(EXCHANGES[exchange].market)
        return None if of_market is None else of_market.exchange_time_ms

    @property
    def frames(self) -> int:
        """Messages taken from the connections of all markets."""
        return sum(market.frames for market in self.markets.values())

    @property
    def queued_frames(self) -> int:
        """Received frames of all markets that wait for the delivery."""
        return sum(market.queued_frames for market in self.markets.values())

    @property
    def streams(self) -> dict[str, StreamCounts]:
        """Counts of all markets by stream."""
        found: dict[str, StreamCounts] = {}
        for market in self.markets.values():
            for name, counts in market.streams.items():
                found[name] = found.get(name, StreamCounts()) + counts
        return found


def rejecting_problems(settings: Settings) -> dict[Market, str]:
    """Return, per market, the symbols whose frames are being rejected, with counts and reasons."""
    found: dict[Market, str] = {}
    for market, of_market in _markets(settings).items():
        messages = [
            f"{market} {symbol}: {entry.frames:,} frames rejected since the last accepted one ({entry.reason})"
            for symbol, entry in islice(reversed(of_market.rejecting.items()), NAMED_IN_MESSAGES)
        ]
        omitted = len(of_market.rejecting) - len(messages)
        if messages:
            found[market] = "; ".join(messages) + (f"; and {omitted} more symbols" if omitted else "")
    return found


def rejecting_problem(settings: Settings, family: Family | None = None) -> str | None:
    """Return the messages of `rejecting_problems` as one, of one family if given; None if there are none."""
    found = rejecting_problems(settings).items()
    return "; ".join(text for market, text in found if family in (None, VENUES[market].family)) or None


def waiting_problem(settings: Settings) -> str | None:
    """Return the markets that the producer could not start to follow, with the causes; None if there are none."""
    causes = {
        MarketState.WAITING: "the exchange does not respond",
        MarketState.REJECTED: "the exchange does not offer the tracked symbols",
    }
    found = [(market, of_market.state) for market, of_market in _markets(settings).items()]
    return "; ".join(f"{market}: {causes[state]}" for market, state in found if state in causes) or None


def _markets(settings: Settings) -> dict[Market, MarketStatus]:
    status = read_status(settings)
    return {} if status is None else status.markets


def status_path(settings: Settings) -> Path:
    """Return the path of the producer's status file."""
    return settings.run_dir / "producer.json"


def write_status(path: Path, status: ProducerStatus) -> None:
    """Replace the file atomically, so that readers never see a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(status)))
    draft.replace(path)


def read_status(settings: Settings) -> ProducerStatus | None:
    """Return the last written status; None if the file is missing or of another version."""
    try:
        return msgspec.json.decode(status_path(settings).read_bytes(), type=ProducerStatus)
    except (OSError, msgspec.MsgspecError):
        return None
