"""Results of the asset checks: the last finished evaluation of each partition, aggregated per check.

Dagster returns evaluations newest first, and the open hour is evaluated every minute: the newest evaluations alone
would hide a failed hour. So the last evaluations of the newest partitions are queried in addition.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cryptolake_assets.model.windows import DAY, DAY_FORMAT, HOUR, HOUR_FORMAT

EVALUATIONS = 50  # newest evaluations read per check
PARTITIONS = 24  # newest hours or days of a check whose last evaluations are read in addition
EVALUATIONS_EACH = 5  # evaluations read per such partition: the last finished one may precede unfinished attempts
# How long results of older partitions are cached. A new evaluation of one is among the newest of its check.
OLDER_CACHE_S = 60.0

UNITS = {"hour": (HOUR_FORMAT, HOUR), "day": (DAY_FORMAT, DAY)}

_FIELDS = """
fragment execution on AssetCheckExecution { id status runId partition
  evaluation { timestamp success severity description
    metadataEntries { label ... on IntMetadataEntry { intRepr } } } }
"""

QueryFunction = Callable[[str], Mapping[str, Any]]  # returns the `data` of a GraphQL query
CheckKey = tuple[tuple[str, ...], str]  # asset path, check name
_CheckPartition = tuple[CheckKey, str]


class Result(StrEnum):
    """Aggregated result of a check, the worst first; attempts that have not ended do not count."""

    FAILED = "failed"
    ERRORED = "errored"
    WARNED = "warned"
    PASSED = "passed"
    SKIPPED = "skipped"
    NEVER_RUN = "never_run"


@dataclass(frozen=True)
class Execution:
    """One attempt to evaluate a check; its findings are None if it has not ended or was never evaluated."""

    id: int
    status: str
    run_id: str
    partition: str | None
    evaluated_at: float | None = None
    severity: str | None = None
    description: str | None = None
    counts: tuple[tuple[str, int], ...] = ()

    @property
    def is_running(self) -> bool:
        """Return whether the check is being evaluated or its run is queued."""
        return self.status == "IN_PROGRESS"

    @property
    def result(self) -> Result:
        if self.status == "SUCCEEDED":
            return Result.PASSED
        if self.status == "FAILED":
            return Result.WARNED if self.severity == "WARN" else Result.FAILED
        if self.status == "EXECUTION_FAILED":
            return Result.ERRORED
        return Result.NEVER_RUN if self.is_running else Result.SKIPPED


@dataclass(frozen=True)
class CheckState:
    """A check aggregated over its partitions.

    `decided_by` is the newest ended attempt with this `result`, or None. `attempts` has one execution
    per partition: its last finished evaluation, else its last attempt.
    """

    result: Result
    decided_by: Execution | None
    attempts: tuple[Execution, ...]
    running: tuple[Execution, ...]
    last_attempt: str | None

    @property
    def counts(self) -> dict[str, int]:
        """Return the sums of the counts of the partitions' last finished evaluations."""
        total: Counter[str] = Counter()
        for each in self.attempts:
            total.update(dict(each.counts))
        return dict(total)

    @property
    def partitions(self) -> dict[str, Any] | None:
        """Return the number of partitions per result; None without partitions or before the first attempt."""
        keys = sorted(each.partition for each in self.attempts if each.partition is not None)
        if not keys:
            return None
        counts = Counter(each.result for each in self.attempts if each.partition is not None)
        return {
            "unit": next((unit for unit, (form, _) in UNITS.items() if _start(keys[-1], form)), None),
            "first": keys[0],
            "last": keys[-1],
            "evaluated": counts[Result.PASSED] + counts[Result.WARNED] + counts[Result.FAILED],
            **{result.value: counts[result] for result in Result if result is not Result.NEVER_RUN},
            "running": len({each.partition for each in self.running} - {None}),
        }


def state_of(executions: Iterable[Execution]) -> CheckState:
    """Aggregate the executions of a check over all partitions. Pure."""
    newest_first = sorted(executions, key=lambda each: each.id, reverse=True)
    by_partition: dict[str | None, list[Execution]] = {}
    for each in _with_or_without_partition(newest_first):
        by_partition.setdefault(each.partition, []).append(each)
    attempts = [_decisive(of_partition) for of_partition in by_partition.values()]
    ranks = list(Result)
    result = min((each.result for each in attempts), key=ranks.index, default=Result.NEVER_RUN)
    deciding = [each for each in attempts if each.result is result and not each.is_running]
    return CheckState(
        result,
        max(deciding, key=lambda each: (each.evaluated_at or 0.0, each.id), default=None),
        tuple(attempts),
        tuple(each for each in newest_first if each.is_running),
        newest_first[0].status if newest_first else None,
    )


def _with_or_without_partition(newest_first: Sequence[Execution]) -> list[Execution]:
    """Return the executions with a partition, or those without, whichever kind the last finished one has.

    A run of many partitions announces a check once without a partition and evaluates it per partition, and a later
    release may have added partitions to a check. Such executions must not count as one more partition.
    """
    finished = (each for each in newest_first if each.evaluated_at is not None)
    last = next(finished, newest_first[0] if newest_first else None)
    return [each for each in newest_first if last and (each.partition is None) == (last.partition is None)]


def _decisive(of_partition: Sequence[Execution]) -> Execution:
    """Return the last finished execution of a partition (given newest first); else the last ended; else the last."""
    finished = [each for each in of_partition if each.evaluated_at is not None]
    if finished:
        # Ids are assigned when a run is planned, and runs may finish in another order.
        return max(finished, key=lambda each: (each.evaluated_at or 0.0, each.id))
    return next((each for each in of_partition if not each.is_running), of_partition[0])


class CheckHistory:
    """The checks' executions from Dagster; those of older partitions are cached for `OLDER_CACHE_S`."""

    def __init__(self, query: QueryFunction) -> None:
        self._query = query
        self._older: tuple[float, dict[_CheckPartition, list[Execution]]] = (0.0, {})

    def states(self, keys: Sequence[CheckKey]) -> list[CheckState]:
        """Return the state of each check, in at most two requests. Raises what `query` raises."""
        newest = self._executions([(key, None, EVALUATIONS) for key in keys])
        older = self._older_executions(
            [
                (key, partition)
                for key, found in zip(keys, newest, strict=True)
                if len(found) == EVALUATIONS
                for partition in older_partitions(found)
            ]
        )
        return [
            state_of({each.id: each for each in (*older.get(key, ()), *found)}.values())
            for key, found in zip(keys, newest, strict=True)
        ]

    def _older_executions(self, requested: Sequence[_CheckPartition]) -> dict[CheckKey, list[Execution]]:
        """Return the last executions of each check's older partitions."""
        since, cached = self._older
        if time.monotonic() - since > OLDER_CACHE_S:
            cached = {}
            self._older = (time.monotonic(), cached)
        unknown = [item for item in requested if item not in cached]
        found = self._executions([(key, partition, EVALUATIONS_EACH) for key, partition in unknown])
        cached.update(zip(unknown, found, strict=True))
        by_check: dict[CheckKey, list[Execution]] = {}
        for item in requested:
            by_check.setdefault(item[0], []).extend(cached[item])
        return by_check

    def _executions(self, requested: Sequence[tuple[CheckKey, str | None, int]]) -> list[list[Execution]]:
        """Return the newest executions of each check, or of one of its partitions, in one request."""
        if not requested:
            return []
        fields = [f"e{number}: {_field(*each)}" for number, each in enumerate(requested)]
        response = self._query(f"{{ {' '.join(fields)} }} {_FIELDS}")
        return [[_execution(each) for each in response[f"e{number}"]] for number in range(len(requested))]


def _field(key: CheckKey, partition: str | None, limit: int) -> str:
    path, name = key
    of = "" if partition is None else f", partition: {_literal(partition)}"
    return (
        f"assetCheckExecutions(assetKey: {{path: {_literal(path)}}}, checkName: {_literal(name)}, limit: {limit}{of}) "
        "{ ...execution }"
    )


def _literal(value: object) -> str:
    """Return a string or a list of strings as a GraphQL literal, which has JSON's syntax."""
    return json.dumps(value, ensure_ascii=False)


def _execution(node: Mapping[str, Any]) -> Execution:
    evaluation = node["evaluation"] or {}
    counts = (
        (entry["label"], entry["intRepr"]) for entry in evaluation.get("metadataEntries", ()) if "intRepr" in entry
    )
    return Execution(
        int(node["id"]),
        node["status"],
        node["runId"],
        node["partition"],
        evaluation.get("timestamp"),
        evaluation.get("severity"),
        evaluation.get("description"),
        tuple((label, int(number)) for label, number in counts),
    )


def older_partitions(found: Sequence[Execution]) -> Iterator[str]:
    """Yield the partitions whose last finished evaluation is not in `found`, the newest executions of a check.

    These are the partitions with unfinished attempts only, and missing ones of the newest hours or days. Pure.
    """
    known = dict.fromkeys(each.partition for each in found if each.partition is not None)
    finished = {each.partition for each in found if each.evaluated_at is not None}
    yield from (key for key in known if key not in finished)
    for form, length in UNITS.values():
        if newest := max((start for key in known if (start := _start(key, form))), default=None):
            keys = ((newest - number * length).strftime(form) for number in range(PARTITIONS))
            yield from (key for key in keys if key not in known)


def _start(partition: str, form: str) -> datetime | None:
    """Return the start of a partition whose name has this format; None for other names."""
    try:
        return datetime.strptime(partition, form)
    except ValueError:
        return None
