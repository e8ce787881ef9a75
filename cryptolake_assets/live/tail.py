"""The tail of one family's trades: every minute with a trade that Silver does not contain yet, whole. Pure.

A minute is whole if all of its trades of Bronze and Kafka are in it. The tail begins at the offsets that Bronze has
reached. A minute that may have trades below them, or that was evicted, is read from Bronze first. Once Silver contains
a minute, it is settled: Silver answers for it until another trade changes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from cryptolake_assets.live.minute import MinuteKey, StreamMinute, Topic
from cryptolake_assets.live.settlement import Settled
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.windows import MINUTE_US
from cryptolake_assets.quality.minute_bars import bar_rows
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.quality.trade_rules import judge_of

log = structlog.get_logger(__name__)

Offsets = Mapping[int, int]  # next offset by partition

KEPT_US: Final = 60_000_000  # a settled minute stays until a trade is this much newer than its end
MAX_MINUTES: Final = 50_000  # of all symbols, about 2 kB each; the oldest are evicted first
MAX_WAITING: Final = 200_000  # trades of minutes that Bronze was not read for yet


@dataclass(slots=True)
class TailMinute:
    """A minute of a symbol, by stream; while it is not whole, its trades wait."""

    is_whole: bool
    is_settled: bool = False
    streams: dict[str, StreamMinute] = field(default_factory=dict)
    waiting: list[TradeEvent] = field(default_factory=list)
    next_offsets: dict[int, int] = field(default_factory=dict)  # after the last record that matters, by partition

    def is_contained(self, offsets: Offsets) -> bool:
        return all(offsets.get(partition, 0) >= following for partition, following in self.next_offsets.items())

    @property
    def is_of_tail(self) -> bool:
        """Whether the tail answers for the minute instead of Silver."""
        return self.is_whole and not self.is_settled

    def bar(self, start_us: int, topic: Topic) -> dict[str, Any] | None:
        """Return the bar as Silver's row, never complete; None without a valid trade, or if Silver answers for it."""
        if not self.is_of_tail:
            return None
        rows = [
            minute.aggregates(*topic, stream, start_us)
            for stream, minute in self.streams.items()
            if not minute.is_empty
        ]
        return next(iter(bar_rows(rows, lambda *_: None)), None)


class Tail:
    """The minutes of the tail. Not thread-safe."""

    def __init__(self, rules: RuleContext, bronze_until_us: int, max_minutes: int = MAX_MINUTES) -> None:
        """`bronze_until_us`: no trade below the first offsets is later (µs since 1970, UTC)."""
        self.set_rules(rules)
        self._bronze_until_us = bronze_until_us
        self._max_minutes = max_minutes
        self._minutes: dict[int, dict[Topic, TailMinute]] = {}
        self._evicted_until_us: dict[Topic, int] = {}  # open time of the newest evicted minute
        self._changed: set[MinuteKey] = set()
        self._waiting = 0
        self.versions: defaultdict[Topic, int] = defaultdict(int)  # grow with every change of a symbol's bars
        self.next_offsets: dict[int, int] = {}  # after the last record
        self.newest_us = bronze_until_us  # latest event time
        self.minutes_evicted_early = 0

    def __len__(self) -> int:
        return sum(map(len, self._minutes.values()))

    def set_rules(self, rules: RuleContext) -> None:
        """Judge trades by these rules from now on.

        Trades of unknown symbols are counted too, for the case that a symbol becomes known later, but not answered.
        """
        self._judge = judge_of(rules, any_symbol=True)
        self._known = frozenset(rules.symbols)

    def add(self, partition: int, offset: int, trade: TradeEvent) -> None:
        """Add a record's trade, in the order of the partition."""
        self.next_offsets[partition] = offset + 1
        start_us = trade.event_time // MINUTE_US * MINUTE_US
        topic = trade.exchange, trade.symbol
        minutes = self._minutes.get(start_us)
        if minutes is None:
            minutes = self._minutes[start_us] = {}
        minute = minutes.get(topic)
        if minute is None:
            from_bronze_us = max(self._bronze_until_us, self._evicted_until_us.get(topic, 0))
            minute = minutes[topic] = TailMinute(is_whole=start_us > from_bronze_us)
            self._bound()
        if minute.is_whole:
            if self._count(minute, start_us, topic, trade):
                minute.next_offsets[partition] = offset + 1
        else:
            minute.next_offsets[partition] = offset + 1
            minute.is_settled = False
            minute.waiting.append(trade)
            self._waiting += 1
            if self._waiting > MAX_WAITING:
                self._evict_early(lambda one: not one.is_whole)

    def _count(self, minute: TailMinute, start_us: int, topic: Topic, trade: TradeEvent) -> bool:
        """Count a trade; return whether it changed the minute."""
        stream = minute.streams.get(trade.stream)
        if stream is None:
            stream = minute.streams[trade.stream] = StreamMinute()
        is_changed = stream.add(trade, self._judge)
        if is_changed:
            minute.is_settled = False
            self._changed.add((start_us, topic))
            self.versions[topic] += 1
            self.newest_us = max(self.newest_us, trade.event_time)
        return is_changed

    def to_load(self) -> list[MinuteKey]:
        """Return the minutes to read from Bronze, the newest first."""
        return [
            (start_us, topic)
            for start_us in sorted(self._minutes, reverse=True)
            for topic, minute in self._minutes[start_us].items()
            if not minute.is_whole and not minute.is_settled
        ]

    def load(self, key: MinuteKey, trades: Iterable[TradeEvent], next_offsets: Offsets) -> None:
        """Make a minute whole with Bronze's trades of it, and the offsets after them; read after `to_load` named it."""
        start_us, topic = key
        minute = self._minutes.get(start_us, {}).get(topic)
        if minute is None:
            minute = self._minutes.setdefault(start_us, {})[topic] = TailMinute(is_whole=False)
        waiting, minute.waiting, minute.is_whole = minute.waiting, [], True
        self._waiting -= len(waiting)
        for trade in (*trades, *waiting):
            self._count(minute, start_us, topic, trade)
        for partition, following in next_offsets.items():
            minute.next_offsets[partition] = max(following, minute.next_offsets.get(partition, 0))
        self._bound()

    def settle(self, contained: Callable[[int], Offsets]) -> Iterator[Settled]:
        """Settle the minutes that Silver contains, and evict settled ones that are old; yield the newly settled.

        `contained` returns the offsets that Silver contains of the hour with this open time (µs since 1970, UTC).
        """
        for start_us in sorted(self._minutes):
            is_old = start_us + MINUTE_US + KEPT_US <= self.newest_us
            offsets = contained(start_us // (60 * MINUTE_US) * (60 * MINUTE_US))
            for topic, minute in list(self._minutes[start_us].items()):
                if not minute.is_settled and minute.is_contained(offsets):
                    if minute.is_whole and topic in self._known:
                        yield Settled(
                            (start_us, topic),
                            minute.bar(start_us, topic),
                            has_copies=any(stream.copies for stream in minute.streams.values()),
                            has_out_of_range=any(stream.out_of_range for stream in minute.streams.values()),
                            is_behind=any(self.next_offsets.get(part, 0) < offset for part, offset in offsets.items()),
                        )
                    minute.is_settled = True
                    self.versions[topic] += 1
                if is_old and minute.is_settled:
                    self._remove(start_us, topic)

    def bars(self, topic: Topic, start_us: int = 0, end_us: int | None = None) -> list[dict[str, Any]]:
        """Return the symbol's bars that open in [start, end), in order of time; none of an unknown symbol."""
        if topic not in self._known:
            return []
        found = []
        for opened_us in sorted(self._minutes):
            if opened_us >= start_us and (end_us is None or opened_us < end_us):
                minute = self._minutes[opened_us].get(topic)
                bar = minute.bar(opened_us, topic) if minute is not None else None
                if bar is not None:
                    found.append(bar)
        return found

    def has(self, topic: Topic, start_us: int) -> bool:
        """Return whether the tail answers for a minute of the symbol."""
        minute = self._minutes.get(start_us, {}).get(topic)
        return minute is not None and minute.is_of_tail and topic in self._known

    def offsets_of(self, topic: Topic) -> dict[int, int]:
        """Return the offset after the symbol's last record in the tail, by partition."""
        found: dict[int, int] = {}
        for minutes in self._minutes.values():
            if topic in minutes:
                for partition, following in minutes[topic].next_offsets.items():
                    found[partition] = max(following, found.get(partition, 0))
        return found

    def take_changed(self) -> Sequence[tuple[Topic, dict[str, Any]]]:
        """Return the bars that have changed since the last call, by time and symbol."""
        changed = {key for key in self._changed if key[1] in self._known}
        self._changed -= changed
        found = []
        for start_us, topic in sorted(changed):
            minute = self._minutes.get(start_us, {}).get(topic)
            bar = minute.bar(start_us, topic) if minute is not None else None
            if bar is not None:
                found.append((topic, bar))
        return found

    def _bound(self) -> None:
        if len(self) > self._max_minutes:
            self._evict_early(lambda _: True)

    def _evict_early(self, chosen: Callable[[TailMinute], bool]) -> None:
        """Evict the oldest minutes of the kind: Silver alone answers for them."""
        start_us = next(
            start_us for start_us in sorted(self._minutes) if any(map(chosen, self._minutes[start_us].values()))
        )
        topics = [topic for topic, minute in self._minutes[start_us].items() if chosen(minute)]
        for topic in topics:
            self._remove(start_us, topic)
        self.minutes_evicted_early += len(topics)
        log.warning("live_minutes_evicted_early", start_us=start_us, minutes=len(topics))

    def _remove(self, start_us: int, topic: Topic) -> TailMinute:
        minute = self._minutes[start_us].pop(topic)
        self._changed.discard((start_us, topic))
        if not self._minutes[start_us]:
            del self._minutes[start_us]
        self._waiting -= len(minute.waiting)
        self._evicted_until_us[topic] = max(start_us, self._evicted_until_us.get(topic, 0))
        self.versions[topic] += 1
        return minute
