"""Follow a family's trades on Kafka, and keep its tail: in an event loop, with the reads of tables in threads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from cryptolake_assets.binance.stream_types import TRADES_OF_FAMILY
from cryptolake_assets.bronze.offsets import committed_offsets
from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.kafka.topics import broker_request, open_consumer, partitions_of
from cryptolake_assets.lake.published_hours import OffsetsByHour, contained_offsets
from cryptolake_assets.live.bronze_minutes import StoredMinute, latest_trade_us, minutes_lacking, stored_minutes
from cryptolake_assets.live.settlement import Settled
from cryptolake_assets.live.tail import MAX_MINUTES, Tail
from cryptolake_assets.model.columns import PRICE, QUANTITY, decimal_pattern
from cryptolake_assets.model.events import TradeEvent
from cryptolake_assets.model.windows import HOUR, moment_of
from cryptolake_assets.quality.rules import RuleContext
from cryptolake_assets.settings import Settings
from cryptolake_assets.transform.load_inputs import load_run_inputs

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from pyiceberg.table import Table

log = structlog.get_logger(__name__)

POLL_MS: Final = 50
MAX_RECORDS: Final = 2_000  # per poll: about 20 ms of work
MAX_BEHIND: Final = 50_000  # records up to which the tail answers: ten seconds of the busiest markets
CHECK_S: Final = 5.0  # between two questions to the brokers whether they still respond
UPKEEP_S: Final = 0.5  # between two looks for minutes to settle
RULES_S: Final = 30.0  # between two reads of the rules' inputs
LOADED_MINUTES: Final = 2_000  # maximum per read of Bronze
MAX_BACKOFF_S: Final = 15.0
CATCHING_UP: Final = "the API reads the newest trades from Kafka"

_decode = msgspec.json.Decoder(TradeEvent).decode
_is_price, _is_qty = (re.compile(decimal_pattern(kind)).fullmatch for kind in (PRICE, QUANTITY))

OnSettled = Callable[[Sequence[Settled]], None]


def trade_in(value: bytes | None) -> TradeEvent | None:
    """Return the trade of a record; None if it is not an event of the contract."""
    try:
        trade = _decode(value or b"")
    except msgspec.MsgspecError:
        return None
    return trade if _is_price(trade.price) and _is_qty(trade.qty) else None


class KafkaFollower:
    """The tail of one family's trades. `tables` returns the current Bronze and Silver tables."""

    def __init__(self, settings: Settings, tables: Callable[[], tuple[Table, Table]], on_settled: OnSettled) -> None:
        self._settings = settings
        self._tables = tables
        self._on_settled = on_settled
        self._stream = TRADES_OF_FAMILY[settings.venue.family]
        self._tail: Tail | None = None
        self._caught_up = False
        self.problem = CATCHING_UP  # why there is no tail
        self.records_rejected = 0

    @property
    def tail(self) -> Tail | None:
        """The tail while it is at the end of the topic; else None: Silver alone answers."""
        return self._tail if self._caught_up else None

    async def run(self) -> None:
        """Follow until the task is canceled; start again after errors."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Exception),
            wait=wait_exponential(multiplier=0.5, max=MAX_BACKOFF_S),
            before_sleep=self._failed,
        ):
            with attempt:
                try:
                    await self._follow()
                finally:
                    self._caught_up = False

    def _failed(self, state: RetryCallState) -> None:
        """Note why there is no tail; log a cause once, not at each attempt."""
        error = state.outcome.exception() if state.outcome is not None else None
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        problem = str(error) if isinstance(error, CryptolakeError) else repr(error)
        if problem != self.problem:
            log.warning("live_tail_lost", stream=self._stream.name, cause=problem)
        self.problem = problem

    async def _follow(self) -> None:
        async with AsyncExitStack() as stack:
            async with broker_request(self._settings, "follow the trades"):
                consumer = await stack.enter_async_context(open_consumer(self._settings))
                partitions = await partitions_of(self._settings, self._stream.topic(self._settings))
            consumer.assign(list(partitions))
            tail = await self._started(consumer, partitions)
            for tp in partitions:
                consumer.seek(tp, tail.next_offsets[tp.partition])
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._consume(consumer, tail))
                tasks.create_task(self._check(consumer, partitions, tail))
                tasks.create_task(self._keep_up(tail))

    async def _started(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> Tail:
        """Return the tail to continue, or a new one from the offsets that Bronze has reached."""
        begin = {tp.partition: offset for tp, offset in (await consumer.beginning_offsets(partitions)).items()}
        end = {tp.partition: offset for tp, offset in (await consumer.end_offsets(partitions)).items()}
        if self._tail is not None:
            known = self._tail.next_offsets
            if known.keys() == begin.keys() and all(begin[part] <= known[part] <= end[part] for part in begin):
                return self._tail
        self._tail = tail = await asyncio.to_thread(self._new_tail, begin)
        log.info("live_tail_started", stream=self._stream.name, minutes=len(tail), offsets=tail.next_offsets)
        return tail

    def _new_tail(self, begin: Mapping[int, int]) -> Tail:
        committed = committed_offsets(self._settings, self._stream)
        bronze, silver = self._tables()
        rules = self._rules()
        tail = Tail(rules, latest_trade_us(bronze, rules.latest))
        tail.next_offsets = {partition: max(first, committed.get(partition, 0)) for partition, first in begin.items()}
        lacking = minutes_lacking(bronze, contained_offsets(silver), rules.latest, MAX_MINUTES)
        for key, stored in stored_minutes(bronze, lacking).items():
            tail.load(key, stored.trades, stored.next_offsets)
        return tail

    def _rules(self) -> RuleContext:
        """Return the rules' inputs as of now; trades of the time until the next read are in range, too."""
        newest = moment_of(self._tail.newest_us) if self._tail is not None else None
        rules = load_run_inputs(self._settings, newest - 2 * HOUR if newest else None).rules
        margin = timedelta(seconds=2 * RULES_S * self._settings.clock_factor)
        return replace(rules, latest=rules.latest + margin)

    async def _consume(self, consumer: AIOKafkaConsumer, tail: Tail) -> None:
        while True:
            for tp, records in (await consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_RECORDS)).items():
                for record in records:
                    trade = trade_in(record.value)
                    if trade is None:
                        self.records_rejected += 1
                        tail.next_offsets[tp.partition] = record.offset + 1
                    else:
                        tail.add(tp.partition, record.offset, trade)
            await asyncio.sleep(0)

    async def _check(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], tail: Tail) -> None:
        """Ask the brokers for the end of the topic: a client that lost them reports nothing by itself."""
        while True:
            async with broker_request(self._settings, "read the end of the live topic"):
                end = await consumer.end_offsets(partitions)
            behind = sum(max(0, offset - tail.next_offsets[tp.partition]) for tp, offset in end.items())
            was_caught_up, self._caught_up = self._caught_up, behind <= (MAX_BEHIND if self._caught_up else MAX_RECORDS)
            if self._caught_up != was_caught_up:
                self.problem = CATCHING_UP
                event = "live_tail_caught_up" if self._caught_up else "live_tail_behind"
                log.info(event, stream=self._stream.name, minutes=len(tail), records=behind)
            await asyncio.sleep(CHECK_S if self._caught_up else UPKEEP_S)

    async def _keep_up(self, tail: Tail) -> None:
        """Settle what Silver contains, read what Bronze has of waiting minutes, renew the rules."""
        judged_at = monotonic()
        while True:
            if monotonic() - judged_at > RULES_S:
                tail.set_rules(await asyncio.to_thread(self._rules))
                judged_at = monotonic()
            if keys := tail.to_load()[:LOADED_MINUTES]:
                bronze, _ = self._tables()
                found = await asyncio.to_thread(stored_minutes, bronze, keys)
                for key in keys:
                    stored = found.get(key, StoredMinute())
                    tail.load(key, stored.trades, stored.next_offsets)
            offsets = contained_offsets(self._tables()[1])
            if settled := list(tail.settle(_of_hours(offsets))):
                self._on_settled(settled)
            await asyncio.sleep(UPKEEP_S)


def _of_hours(offsets: OffsetsByHour) -> Callable[[int], Mapping[int, int]]:
    """Return the offsets by an hour's open time in µs since 1970, UTC."""
    return lambda hour_us: offsets.get(moment_of(hour_us), {})
