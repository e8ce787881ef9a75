"""The exchange of the simulation: its trades, its clock, its listing, and the faults of what it sends.

Trades have consecutive ids and times that never decrease. A frame that a fault drops, delays or withholds is reported
to the oracle: a barrier on its connection claims that the frame was received, and nothing contradicts it before the
next trade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from cryptolake_assets.model.markets import Venue
from reliability.simulation.oracle import EmittedTrade, Oracle
from reliability.simulation.simulated_socket import SimulatedSocket

MALFORMED: Final = 0.2  # share of malformed rows
START_MS: Final = 1_780_000_020_000  # the exchange's clock at the begin of a simulation, between two minutes
# Frames that no exchange should send. None is a trade, and none is text of a control message.
HOSTILE: Final = (
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[" * 2_000,
    b'{"stream":"%s@aggTrade","data":[]}',
    b'{"stream":"%s@aggTrade","data":{"e":"aggTrade","E":1e400,"s":"%S"}}',
    b'{"stream":"%s@aggTrade","data":{"e":"aggTrade","s":"%S","a":-5,"p":"NaN","q":"1"}}',
    b'{"stream":"%s@aggTrade","data":{"e":"trade","E":1,"T":1,"s":"%S","t":true,"p":"1","q":"1","m":false}}',
    b'{"data":{"e":"aggTrade","E":99999999999999999,"T":1,"s":"%S","a":1,"p":"1","q":"1","f":1,"l":1,"m":true}}',
    b'{"e":"24hrTicker","s":"%S","E":1}',
    b'{"error":{"code":2,"msg":"Invalid request"},"id":null}',
    b'{"result":null,"id":281474976710655}',
    b"ping",
)


@dataclass
class FrameFaults:
    """Numbers of the next trades of a market that each fault concerns; a chance of 1/2 per trade spreads them."""

    drop: int = 0
    duplicate: int = 0
    corrupt: int = 0
    late: int = 0
    late_s: float = 0.0
    reorder: int = 0
    hostile: int = 0

    def pick(self, random: Random) -> str | None:
        """Return the fault of the next frame, if any."""
        for name in ("drop", "duplicate", "corrupt", "late", "reorder", "hostile"):
            left = getattr(self, name)
            if left and random.random() < 0.5:
                setattr(self, name, left - 1)
                return name
        return None


@dataclass(eq=False)
class SimulatedSymbol:
    """One symbol and its trades, oldest first."""

    name: str
    share: float  # of the market's trades
    trades: list[EmittedTrade] = field(default_factory=list)
    made_at: list[float] = field(default_factory=list)  # the loop's time of each
    first_id: int = 0
    next_raw_id: int = 0
    price: int = 0  # in cents
    is_listed: bool = True
    is_halted: bool = False  # listed, without trades
    silent_until: float = 0.0  # its trades are not sent on the connections open at the time
    malformed_until: float = 0.0  # some of its trades have malformed rows in the REST history, for good
    malformed: set[int] = field(default_factory=set)
    corrupted: set[int] = field(default_factory=set)  # ids whose frames were sent corrupted on a connection

    def find(self, trade_id: int) -> EmittedTrade | None:
        index = trade_id - self.first_id
        return self.trades[index] if 0 <= index < len(self.trades) else None


class SimulatedMarket:
    """One market of the exchange."""

    def __init__(
        self,
        venue: Venue,
        symbols: list[SimulatedSymbol],
        loop: asyncio.AbstractEventLoop,
        random: Random,
        oracle: Oracle,
    ) -> None:
        self.venue = venue
        self.symbols = {symbol.name: symbol for symbol in symbols}
        self._loop = loop
        self._random = random
        self._oracle = oracle
        self.skew_ms = 0
        self.sockets: list[SimulatedSocket] = []  # subscribed and not closed by either side
        self.emitted = oracle.emitted  # called with exchange, symbol and each new trade
        self.faults = FrameFaults()
        self.rate = 1.0  # trades per s
        self.frames_sent = 0
        self.max_life_s = 86_400.0
        self.rejects_until = 0.0  # no connection can be opened
        self.rejects_with = 0  # status of a rejected handshake; 0: no response
        for symbol in symbols:
            symbol.first_id = random.randrange(1, 10**9)
            symbol.next_raw_id = random.randrange(1, 10**9)
            symbol.price = random.randrange(1_000, 10_000_000)

    @property
    def clock_ms(self) -> int:
        """The exchange's clock, ms since 1970."""
        return START_MS + self.skew_ms + int(self._loop.time() * 1000)

    def start(self) -> None:
        """Begin to trade."""
        self._loop.call_later(self._random.expovariate(self.rate), self._trade)

    def heal(self) -> None:
        """End all faults."""
        self.faults = FrameFaults()
        self.rejects_until = 0.0
        for symbol in self.symbols.values():
            symbol.is_listed, symbol.is_halted, symbol.silent_until = True, False, 0.0

    def _trade(self) -> None:
        number = self._random.choice((1, 1, 1, 2, 4))
        self.emit(number)
        self._loop.call_later(self._random.expovariate(self.rate / 1.8), self._trade)

    def emit(self, number: int) -> None:
        """Make trades of one random symbol, and send them."""
        traded = [symbol for symbol in self.symbols.values() if symbol.is_listed and not symbol.is_halted]
        if traded:
            (symbol,) = self._random.choices(traded, [symbol.share for symbol in traded])
            self._send(symbol, [self._make(symbol) for _ in range(number)])

    def _make(self, symbol: SimulatedSymbol) -> EmittedTrade:
        random = self._random
        symbol.price = max(1, symbol.price + random.randrange(-20, 21))
        raw_ids = random.choice((1, 1, 1, 3))
        last_ms = symbol.trades[-1].time_ms if symbol.trades else 0
        trade = EmittedTrade(
            trade_id=symbol.first_id + len(symbol.trades),
            time_ms=max(last_ms, self.clock_ms - random.choice((0, 0, 1, 3))),
            price=f"{symbol.price // 100}.{symbol.price % 100:02}",
            qty=f"0.{random.randrange(1, 100_000):05}",
            side=random.choice(("buy", "sell")),
            first_id=symbol.next_raw_id,
            last_id=symbol.next_raw_id + raw_ids - 1,
        )
        symbol.next_raw_id += raw_ids
        symbol.trades.append(trade)
        if self._loop.time() < symbol.malformed_until and random.random() < MALFORMED:
            symbol.malformed.add(trade.trade_id)
        symbol.made_at.append(self._loop.time())
        self.emitted(self.venue.exchange, symbol.name, trade)
        return trade

    def _send(self, symbol: SimulatedSymbol, trades: list[EmittedTrade]) -> None:
        sockets = [socket for socket in self.sockets if symbol.name in socket.symbols]
        if not sockets:
            return
        self.frames_sent += len(trades)
        if self._loop.time() < symbol.silent_until:
            for trade in trades:
                self._withhold(symbol, trade)
            return
        frames = [frame_of(symbol.name, trade, self.clock_ms) for trade in trades]
        faults = self.faults
        if not (faults.drop or faults.duplicate or faults.corrupt or faults.late or faults.reorder or faults.hostile):
            for socket in sockets:
                socket.deliver(frames)
            return
        affected = self._random.choice(sockets) if self._random.random() < 0.5 else None  # None: all
        for socket in sockets:
            for trade, frame in zip(trades, frames, strict=True):
                fault = faults.pick(self._random) if affected in (None, socket) else None
                self._send_faulty(socket, symbol, trade, frame, fault)

    def _send_faulty(
        self, socket: SimulatedSocket, symbol: SimulatedSymbol, trade: EmittedTrade, frame: bytes, fault: str | None
    ) -> None:
        if fault == "drop":
            self._withhold(symbol, trade)
        elif fault == "late":
            self._withhold(symbol, trade)
            self._loop.call_later(self._random.uniform(0.0, self.faults.late_s), socket.deliver, [frame])
        elif fault == "reorder":
            self._withhold(symbol, trade)
            socket.delayed.append(frame)
        elif fault == "duplicate":
            socket.deliver([frame, frame])
        elif fault == "corrupt":
            symbol.corrupted.add(trade.trade_id)
            socket.deliver([corrupted(frame, self._random)])
        elif fault == "hostile":
            hostile = self._random.choice(HOSTILE).replace(b"%S", symbol.name.encode())
            socket.deliver([hostile.replace(b"%s", symbol.name.lower().encode()), frame])
        else:
            socket.deliver([frame])

    def _withhold(self, symbol: SimulatedSymbol, trade: EmittedTrade) -> None:
        self._oracle.withheld(self.venue.exchange, symbol.name, trade.trade_id)

    def each_socket(self, act: Callable[[SimulatedSocket], None]) -> int:
        """Act on all sockets; return their number."""
        sockets = list(self.sockets)
        for socket in sockets:
            act(socket)
        return len(sockets)


def frame_of(symbol: str, trade: EmittedTrade, sent_ms: int) -> bytes:
    """Return the frame of a combined stream."""
    return (
        f'{{"stream":"{symbol.lower()}@aggTrade","data":{{"e":"aggTrade","E":{sent_ms},"s":"{symbol}",'
        f'"a":{trade.trade_id},"p":"{trade.price}","q":"{trade.qty}","f":{trade.first_id},"l":{trade.last_id},'
        f'"T":{trade.time_ms},"m":{"false" if trade.side == "buy" else "true"}}}}}'
    ).encode()


def corrupted(frame: bytes, random: Random) -> bytes:
    """Return the frame with one change that its contract rejects."""
    kind = random.randrange(5)
    if kind == 0:
        return frame[: random.randrange(10, len(frame) - 1)]
    if kind == 1:
        return frame.replace(b'"p":"', b'"p":"x')
    if kind == 2:
        return frame.replace(b'"q":', b'"Q":')
    if kind == 3:
        return frame.replace(b'"m":', b'"m":1')
    return frame.replace(b'{"e"', b'\xff{"e"')
