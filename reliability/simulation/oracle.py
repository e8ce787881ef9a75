"""The oracle of the simulation: what the exchange emitted and the broker stored, compared naively with the lake.

It shares no code with what it judges. Each check appends to `violations`; those that run during the simulation cost as
much as the rows that they judge.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, Final

from cryptolake_assets.lake.gap_ledger import GapOutcome, OpenBecause, TradeGap
from cryptolake_assets.model.coverage_rows import CoverageRow

MINUTE_MS: Final = 60_000
_EXACT: Final = Context(prec=100)
_EIGHT_DECIMALS: Final = Decimal("1e-8")

IsAvailable = Callable[[str, str, int], bool]  # exchange, symbol, trade id

# Reasons for which an open gap may stay after everything is quiet.
UNREPAIRABLE: Final = (OpenBecause.BEYOND_LIMIT, OpenBecause.REJECTED, OpenBecause.NEEDS_KEY, OpenBecause.NO_HISTORY)


@dataclass(slots=True)
class EmittedTrade:
    """A trade of the exchange, and what became of it."""

    trade_id: int
    time_ms: int
    price: str
    qty: str
    side: str
    first_id: int
    last_id: int
    offset: int | None = None  # the lowest offset at which the topic has it
    is_fetched: bool = False  # the topic has it from the REST history
    withheld: bool = False  # the exchange did not send it in order: nothing shows that it exists before the next trade

    @property
    def is_broken(self) -> bool:
        """Return whether Silver must not use it."""
        return Decimal(self.price) <= 0 or Decimal(self.qty) <= 0


@dataclass
class EmittedTrades:
    """The trades of one symbol, with consecutive ids and times that never decrease."""

    first_id: int
    trades: list[EmittedTrade] = field(default_factory=list)
    partition: int | None = None  # of the topic
    gaps: dict[int, TradeGap] = field(default_factory=dict)  # the ledger's, by the first missing id
    first_missing: list[int] = field(default_factory=list)  # in order
    first_stored: int | None = None  # the lowest id on the topic
    beyond_limit: set[int] = field(default_factory=set)  # first ids of the gaps that were beyond the repair limit

    def between(self, start_ms: int, end_ms: int) -> Sequence[EmittedTrade]:
        """Return the trades of [start, end)."""
        first = bisect_left(self.trades, start_ms, key=_time_ms)
        last = first
        while last < len(self.trades) and self.trades[last].time_ms < end_ms:
            last += 1
        return self.trades[first:last]

    def find(self, trade_id: int) -> EmittedTrade | None:
        index = trade_id - self.first_id
        return self.trades[index] if 0 <= index < len(self.trades) else None

    def write_gap(self, gap: TradeGap) -> None:
        if gap.first_missing_id not in self.gaps:
            insort(self.first_missing, gap.first_missing_id)
        self.gaps[gap.first_missing_id] = gap
        if gap.open_because is OpenBecause.BEYOND_LIMIT:
            self.beyond_limit.add(gap.first_missing_id)

    def gaps_with(self, trade_id: int) -> Iterable[TradeGap]:
        """Yield the ledger's gaps that span the id, newest first."""
        for index in range(bisect_right(self.first_missing, trade_id) - 1, -1, -1):
            gap = self.gaps[self.first_missing[index]]
            if gap.last_missing_id >= trade_id:
                yield gap

    def is_before_all(self, trade: EmittedTrade) -> bool:
        """Return whether the exchange withheld the trade before the first one of its symbol that it ever sent.

        No id shows that it exists: a barrier says that nothing was sent before.
        """
        return trade.withheld and (self.first_stored is None or trade.trade_id < self.first_stored)

    def is_in_ledger(self, trade: EmittedTrade) -> bool:
        """Return whether a gap accounts for the trade: an open one, or a closed one that has it on the topic."""
        for gap in self.gaps_with(trade.trade_id):
            if gap.closed_at is None or gap.outcome is GapOutcome.NOT_ORDER_BOOK:
                return True
            if trade.offset is not None and trade.offset < (gap.kafka_offset or 0):
                return True
        return False

    def has_stored_above(self, trade_id: int, below_offset: int) -> bool:
        """Return whether the topic has a later trade below the offset, which shows that this one exists."""
        index = max(0, trade_id - self.first_id + 1)
        return any(trade.offset is not None and trade.offset < below_offset for trade in self.trades[index:])


def _time_ms(trade: EmittedTrade) -> int:
    return trade.time_ms


class Oracle:
    """Keeps the truth, and judges claims, gaps and bars."""

    def __init__(self, grace_ms: int) -> None:
        self._grace_ms = grace_ms
        self.violations: list[str] = []
        self.emitted_by: dict[tuple[str, str], EmittedTrades] = {}  # (exchange, symbol)
        self.bars_checked = 0
        self.complete_minutes: dict[tuple[str, str, int], Mapping[str, Any]] = {}  # complete bars as published last

    # What happened.

    def emitted(self, exchange: str, symbol: str, trade: EmittedTrade) -> None:
        """Record a trade of the exchange. Ids are consecutive, and times never decrease."""
        known = self.emitted_by.setdefault((exchange, symbol), EmittedTrades(trade.trade_id))
        assert trade.trade_id == known.first_id + len(known.trades), "ids are consecutive"
        assert not known.trades or trade.time_ms >= known.trades[-1].time_ms, "times never decrease"
        known.trades.append(trade)

    def withheld(self, exchange: str, symbol: str, trade_id: int) -> None:
        """Record that the exchange does not send a trade in its order: dropped, late, or never on the stream."""
        if trade := self.emitted_by[exchange, symbol].find(trade_id):
            trade.withheld = True

    def stored(
        self, exchange: str, symbol: str, trade_id: int, partition: int, offset: int, *, is_fetched: bool = False
    ) -> None:
        """Record that the topic has a trade at an offset, whether or not the producer knows."""
        known = self.emitted_by.get((exchange, symbol))
        trade = known.find(trade_id) if known is not None else None
        if known is None or trade is None:
            return  # a frame that the exchange never meant; Silver does not know its symbol
        known.partition = partition
        known.first_stored = trade_id if known.first_stored is None else min(trade_id, known.first_stored)
        if trade.offset is None or offset < trade.offset:
            trade.offset, trade.is_fetched = offset, is_fetched

    # Checks of each step.

    def check_claims(self, claims: Iterable[CoverageRow]) -> None:
        """Check claims at their write: each trade of their time is on the topic below the offset, or in the ledger."""
        for claim in claims:
            known = self.emitted_by.get((claim.exchange, claim.symbol))
            if known is None:
                continue
            limit = claim.kafka_offset or 0
            # Readers shorten a claim by the grace.
            for trade in known.between(claim.connected_from_ms, claim.connected_to_ms - self._grace_ms):
                if (trade.offset is not None and trade.offset < limit) or known.is_in_ledger(trade):
                    continue
                if trade.withheld and not known.has_stored_above(trade.trade_id, limit):
                    continue
                if known.is_before_all(trade):
                    continue
                self.violations.append(
                    f"coverage: {claim.symbol} [{claim.connected_from_ms}, {claim.connected_to_ms}) by "
                    f"{claim.evidence} below offset {limit} claims {trade}, which is in no gap"
                )

    def check_gap(self, gap: TradeGap) -> None:
        """Check a gap at its write: the topic has the trades of a closed one, or an open gap names them."""
        known = self.emitted_by.get((gap.exchange, gap.symbol))
        if known is None:
            return
        known.write_gap(gap)
        # Of a gap that exceeds the repair limit, the newest ids are repaired: they follow the part beyond the limit. A
        # trade that reached the topic after a later one (a batch that was sent again) may have been one of them.
        following = known.find(gap.last_missing_id + 1)
        if (
            gap.open_because is OpenBecause.BEYOND_LIMIT
            and following is not None
            and following.offset is not None
            and not (following.is_fetched or following.withheld)
            and not known.has_stored_above(following.trade_id, following.offset)
        ):
            self.violations.append(f"gap ledger: {gap} is beyond the repair limit up to a trade of the stream")
        if gap.closed_at is None or gap.outcome is GapOutcome.NOT_ORDER_BOOK:
            return
        for trade in known.trades[max(0, gap.first_missing_id - known.first_id) :]:
            if trade.trade_id > gap.last_missing_id:
                break
            # A merged gap spans ids of other gaps, which stay open.
            is_on_topic = trade.offset is not None and trade.offset < (gap.kafka_offset or 0)
            if not is_on_topic and all(other.closed_at for other in known.gaps_with(trade.trade_id)):
                self.violations.append(
                    f"gap ledger: {gap.symbol} closed [{gap.first_missing_id}, {gap.last_missing_id}] below offset "
                    f"{gap.kafka_offset}, and the topic lacks {trade} there"
                )

    def check_bar(
        self, bar: Mapping[str, Any], ids: Collection[int], gaps: Iterable[TradeGap], offsets: Mapping[int, int]
    ) -> None:
        """Check a bar at its publication: a complete one has every trade of the exchange, and nothing else.

        `ids` are its trades; `gaps` and `offsets` the missing gaps and the offsets of Bronze that its run knew.
        """
        key = bar["exchange"], bar["symbol"], round(bar["window_start"].timestamp() * 1000)
        if not bar["is_complete"]:
            self.complete_minutes.pop(key, None)
            return
        self.bars_checked += 1
        self.complete_minutes[key] = bar
        known = self.emitted_by[key[0], key[1]]
        trades = known.between(key[2], key[2] + MINUTE_MS)
        for trade in trades:
            # Nobody can know that a withheld trade is missing before the run's offsets or gaps show it.
            is_known = (
                not trade.withheld
                or (trade.offset is not None and trade.offset < offsets.get(known.partition or 0, 0))
                or any(gap.symbol == bar["symbol"] and _spans(gap, trade.trade_id) for gap in gaps)
            )
            if trade.trade_id not in ids and is_known:
                self.violations.append(f"complete bar: {bar['symbol']} {key[2]} lacks {trade}")
        if error := _difference(bar, [trade for trade in trades if trade.trade_id in ids]):
            self.violations.append(f"complete bar: {error}")

    # Checks of a quiet end.

    def check_end(self, is_available: IsAvailable) -> None:
        """Check after faults have ended and everything had time: complete bars are right, and gaps are repaired.

        `is_available` returns whether the REST history has a valid trade.
        """
        for (exchange, symbol, start_ms), bar in self.complete_minutes.items():
            known = self.emitted_by[exchange, symbol]
            trades = known.between(start_ms, start_ms + MINUTE_MS)
            if error := _difference(bar, [trade for trade in trades if not known.is_before_all(trade)]):
                self.violations.append(f"complete bar at the end: {error}")
        for known in self.emitted_by.values():
            for gap in known.gaps.values():
                if gap.closed_at is None and gap.open_because not in UNREPAIRABLE:
                    ids = range(gap.first_missing_id, gap.last_missing_id + 1)
                    if all(is_available(gap.exchange, gap.symbol, trade_id) for trade_id in ids):
                        self.violations.append(f"gap not repaired: {gap}")

    def unaccounted(self, exchange: str, symbol: str, first_id: int, last_id: int) -> list[int]:
        """Return the emitted ids from `first_id` to `last_id` that are neither on the topic nor in an open gap."""
        known = self.emitted_by[exchange, symbol]
        trades = known.trades[max(0, first_id - known.first_id) : last_id - known.first_id + 1]
        missing = [trade for trade in trades if trade.offset is None]
        return [trade.trade_id for trade in missing if not known.is_in_ledger(trade)]

    def check_bronze(self, exchange: str, symbol: str, ids: Iterable[int]) -> None:
        """Check that Bronze has exactly the distinct ids that the topic has."""
        held, on_topic = (
            set(ids),
            {t.trade_id for t in self.emitted_by[exchange, symbol].trades if t.offset is not None},
        )
        if held != on_topic:
            self.violations.append(
                f"bronze: {symbol} lacks {sorted(on_topic - held)[:5]}, has in addition {sorted(held - on_topic)[:5]}"
            )

    def check_incomplete(self, bar: Mapping[str, Any]) -> None:
        """Check an incomplete bar at the end: it has every valid trade of its minute that the topic has."""
        start_ms = round(bar["window_start"].timestamp() * 1000)
        trades = self.emitted_by[bar["exchange"], bar["symbol"]].between(start_ms, start_ms + MINUTE_MS)
        if error := _difference(bar, [trade for trade in trades if trade.offset is not None and not trade.is_broken]):
            self.violations.append(f"incomplete bar: {error}")

    def completable(self, exchange: str, symbol: str, from_ms: int, to_ms: int) -> list[int]:
        """Return the starts (ms) of the minutes of [from, to) that have trades, all valid and on the topic."""
        known, found = self.emitted_by[exchange, symbol], []
        for start_ms in range(-(-from_ms // MINUTE_MS) * MINUTE_MS, to_ms - MINUTE_MS + 1, MINUTE_MS):
            trades = known.between(start_ms, start_ms + MINUTE_MS)
            if trades and all(trade.offset is not None and not trade.is_broken for trade in trades):
                found.append(start_ms)
        return found


def _spans(gap: TradeGap, trade_id: int) -> bool:
    return gap.first_missing_id <= trade_id <= gap.last_missing_id


def _difference(bar: Mapping[str, Any], trades: Sequence[EmittedTrade]) -> str | None:
    """Return how a bar differs from the one of these trades; None if it does not."""
    if broken := [trade for trade in trades if trade.is_broken]:
        return f"{bar['symbol']} {bar['window_start']:%H:%M} has trades that Silver quarantines, such as {broken[0]}"
    wrong = {name: (bar[name], value) for name, value in naive_bar(trades).items() if bar[name] != value}
    return f"{bar['symbol']} {bar['window_start']:%H:%M} differs (bar, expected): {wrong}" if wrong else None


def naive_bar(trades: Sequence[EmittedTrade]) -> dict[str, Any]:
    """Return the measures of a minute; empty without a trade."""
    if not trades:
        return {"trades": 0}
    ordered = sorted(trades, key=lambda trade: (trade.time_ms, trade.trade_id))
    prices = [Decimal(trade.price) for trade in ordered]
    zero = Decimal(0)
    volume, quote, bought, bought_quote = zero, zero, zero, zero
    for trade in ordered:
        qty, value = Decimal(trade.qty), _EXACT.multiply(Decimal(trade.price), Decimal(trade.qty))
        volume, quote = _EXACT.add(volume, qty), _EXACT.add(quote, value)
        if trade.side == "buy":
            bought, bought_quote = _EXACT.add(bought, qty), _EXACT.add(bought_quote, value)
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": volume,
        "quote_volume": quote,
        "vwap": _EXACT.divide(quote, volume).quantize(_EIGHT_DECIMALS, ROUND_HALF_UP, _EXACT),
        "trades": sum(trade.last_id - trade.first_id + 1 for trade in ordered),
        "taker_buy_volume": bought,
        "taker_buy_quote_volume": bought_quote,
        "first_trade_id": min(trade.first_id for trade in ordered),
        "last_trade_id": max(trade.last_id for trade in ordered),
    }
