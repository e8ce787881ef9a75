"""The bars of all families' tails, for readers in the same event loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from cryptolake_assets.live.kafka_follower import KafkaFollower
from cryptolake_assets.live.minute import Topic
from cryptolake_assets.live.tail import Tail
from cryptolake_assets.model.bar_state import STATE, BarState
from cryptolake_assets.model.markets import EXCHANGES, Family
from cryptolake_assets.model.windows import epoch_us, hour_of


class LiveBars:
    """The tails by family; a family whose tail is not at the end of its topic has no bars."""

    def __init__(self, followers: Mapping[Family, KafkaFollower]) -> None:
        self.followers = followers
        self.blocked_hours: Collection[tuple[Family, datetime]] = ()  # whose last candidate a check rejected

    def is_live(self, exchange: str) -> bool:
        """Return whether the tail of the exchange's family is at the end of its topic."""
        return self._tail(exchange) is not None

    def _tail(self, exchange: str) -> Tail | None:
        follower = self.followers.get(EXCHANGES[exchange].family)
        return None if follower is None else follower.tail

    def problems(self) -> dict[Family, str]:
        """Return why the tail of a family does not answer, by family."""
        return {family: follower.problem for family, follower in self.followers.items() if follower.tail is None}

    def offsets(self, topic: Topic) -> Mapping[int, int] | None:
        """Return the offset after the symbol's last record, by Kafka partition; None if Silver alone answers."""
        tail = self._tail(topic[0])
        return None if tail is None else tail.offsets_of(topic)

    def version(self, topic: Topic) -> int | None:
        """Return a number that grows when the symbol's bars change; None without a tail."""
        tail = self._tail(topic[0])
        return None if tail is None else tail.versions[topic]

    def bars(self, topic: Topic, start: datetime | None = None, end: datetime | None = None) -> list[dict[str, Any]]:
        """Return the symbol's bars with their states that open in [start, end], both included, in order of time."""
        tail = self._tail(topic[0])
        if tail is None:
            return []
        until_us = None if end is None else epoch_us(end) + 1
        bars = tail.bars(topic, 0 if start is None else epoch_us(start), until_us)
        return [{**bar, STATE.name: self._state(topic, bar)} for bar in bars]

    def _state(self, topic: Topic, bar: Mapping[str, Any]) -> BarState:
        hour = EXCHANGES[topic[0]].family, hour_of(bar["window_start"])
        return BarState.BLOCKED if hour in self.blocked_hours else BarState.PROVISIONAL

    def has(self, topic: Topic, start_us: int) -> bool:
        """Return whether the tail has a minute of the symbol."""
        tail = self._tail(topic[0])
        return tail is not None and tail.has(topic, start_us)

    def take_changed(self) -> Iterator[tuple[Topic, Mapping[str, Any]]]:
        """Yield the bars that have changed since the last call."""
        for follower in self.followers.values():
            if follower.tail is not None:
                for topic, bar in follower.tail.take_changed():
                    yield topic, {**bar, STATE.name: self._state(topic, bar)}

    def exchanges_of(self, symbol: str) -> Sequence[str]:
        """Return the exchanges whose tail has bars of the symbol."""
        return [exchange for exchange in EXCHANGES if self.bars((exchange, symbol))]
