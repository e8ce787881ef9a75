"""Routes for operators: parts, assets, latest check results, and counts of rejected frames and quarantined trades."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from cryptolake_assets.api import check_results, schemas
from cryptolake_assets.api.check_results import CheckHistory, CheckKey, CheckState, Result
from cryptolake_assets.api.page_reader import UnpagedResource, of_each_family
from cryptolake_assets.api.params import RangeParams
from cryptolake_assets.api.pinned import PinnedTable
from cryptolake_assets.api.present import CachedValue, json_of_the_present
from cryptolake_assets.api.table_routes import AnyExchange, OneExchange, ReaderOf, unpaged_table
from cryptolake_assets.lake import reject_counts
from cryptolake_assets.lake.reject_counts import RejectSource
from cryptolake_assets.model.family_tables import FAMILY_TABLES
from cryptolake_assets.model.markets import exchanges_of
from cryptolake_assets.platform import graphql

if TYPE_CHECKING:
    import pyarrow as pa

    from cryptolake_assets.settings import Settings

router = APIRouter()

CACHE_S = 3.0  # how long the state of parts and assets is cached
CHECKS_CACHE_S = 10.0  # how long check results are cached: Dagster needs up to several seconds to read their history

_ASSETS = """
{ assetNodes { assetKey { path } groupName isPartitioned
    freshnessStatusInfo { freshnessStatus }
    assetMaterializations(limit: 1) { timestamp partition runId }
    assetChecksOrError { ... on AssetChecks { checks { name blocking } } } } }
"""


class PartInfo(BaseModel):
    name: str
    state: str
    port: int | None
    uptime_s: float | None
    lag: int | None
    detail: str


class Parts(BaseModel):
    parts: list[PartInfo]


class AssetInfo(BaseModel):
    asset: str
    group: str
    freshness: str | None
    last_materialized_at: datetime | None
    last_partition: str | None
    last_run_id: str | None


class Assets(BaseModel):
    dagster_url: str
    assets: list[AssetInfo]


class CheckPartitions(BaseModel):
    """Partitions of a check by the result of their last finished evaluation; `errored` and `skipped` have none."""

    unit: str | None = Field(description="Hour, day, or null for other partitions.")
    first: str
    last: str
    evaluated: int = Field(description="passed + warned + failed")
    passed: int
    warned: int
    failed: int
    errored: int
    skipped: int
    running: int


class CheckInfo(BaseModel):
    asset: str
    check: str
    blocking: bool
    result: Result = Field(description="Worst result of the partitions; errored: the run failed before the evaluation.")
    running: bool = Field(description="The check is being evaluated, or its run is queued.")
    last_attempt: str | None = Field(description="Dagster's status of the last attempt.")
    status: str | None = Field(
        description="SUCCEEDED or FAILED. This and the next fields are of the newest evaluation with this result."
    )
    severity: str | None
    checked_at: datetime | None = Field(description="Time of the evaluation.")
    partition: str | None
    description: str | None
    run_id: str | None
    run_url: str | None
    partitions: CheckPartitions | None = Field(description="Null for a check without partitions.")
    counts: dict[str, int] = Field(description="Sums over the last finished evaluations of the partitions.")


class Bounds(BaseModel):
    """Evaluations read per check: the newest ones, and those of its newest hours or days."""

    evaluations: int
    partitions: int


class Checks(BaseModel):
    looked_at: Bounds
    checks: list[CheckInfo]


From = Annotated[datetime | None, Field(description="Start of the counted range; null if it has none.")]
Reason = schemas.row_model("Reason", reject_counts.COLUMNS)
Dropped = schemas.rows_model("Dropped", "reasons", Reason, exchange=OneExchange, start=From)

REJECTED = of_each_family(lambda tables: tables.rejected)
QUARANTINED = of_each_family(lambda tables: tables.quarantine)
# A rejected frame names no exchange: only a family with one exchange tells it.
EXCHANGE_OF_REJECTED = {
    tables.rejected.identifier: f"'{names[0]}'" if len(names) == 1 else "NULL::VARCHAR"
    for family, tables in FAMILY_TABLES.items()
    for names in (exchanges_of(family),)
}
Range = Annotated[RangeParams, Query()]
PRESENT = [Depends(json_of_the_present)]


class PlatformReader:
    """Read the state of other processes, at most once every few seconds. One per API."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._history = CheckHistory(partial(graphql.ask, settings))
        self.parts = CachedValue(self._parts, CACHE_S).get
        self.nodes = CachedValue(self._nodes, CACHE_S).get
        self.checks = CachedValue(self._checks, CHECKS_CACHE_S).get

    def _parts(self) -> list[dict[str, Any]]:
        """Return the parts of this machine in order, without paths and process ids."""
        from cryptolake_assets.platform.status import status

        rows = [asdict(row) for row in status(self._settings)]
        return [{name: row[name] for name in PartInfo.model_fields} for row in rows]

    def _nodes(self) -> list[dict[str, Any]]:
        """Return Dagster's assets with their last materialization and their checks' names. Raises `PartError`."""
        return list(graphql.ask(self._settings, _ASSETS)["assetNodes"])

    def _checks(self) -> list[tuple[CheckKey, bool, CheckState]]:
        """Return every asset check, whether it blocks, and its state. Raises `PartError`."""
        blocking: dict[CheckKey, bool] = {
            (tuple(node["assetKey"]["path"]), item["name"]): bool(item["blocking"])
            for node in self.nodes()
            for item in (node["assetChecksOrError"] or {}).get("checks", ())
        }
        states = self._history.states(list(blocking))
        return [(key, blocks, state) for (key, blocks), state in zip(blocking.items(), states, strict=True)]


@router.get(
    "/operations/parts", response_model=Parts, responses=schemas.error_responses(406, 422), dependencies=PRESENT
)
async def parts(request: Request) -> Response:
    """List the parts of the platform on the API's machine: state, port, lag in records, progress."""
    return _json({"parts": await asyncio.to_thread(_platform_reader(request).parts)})


@router.get(
    "/operations/assets", response_model=Assets, responses=schemas.error_responses(406, 422, 503), dependencies=PRESENT
)
async def assets(request: Request, reader: ReaderOf) -> Response:
    """List Dagster's assets with their freshness and last materialization."""
    nodes = await asyncio.to_thread(_platform_reader(request).nodes)
    url = reader.settings.dagster_pages
    return _json({"dagster_url": url, "assets": sorted(map(_asset, nodes), key=lambda item: str(item["asset"]))})


@router.get(
    "/quality/checks",
    summary="Check results",
    response_model=Checks,
    responses=schemas.error_responses(406, 422, 503),
    dependencies=PRESENT,
)
async def checks(request: Request, reader: ReaderOf) -> Response:
    """List every asset check with its last finished results, aggregated over partitions, and whether it is running.

    `status`, `severity`, `checked_at`, `partition`, `description`, `run_id` and `run_url` are those of the newest
    evaluation with this `result`; null without one. An evaluation without a run has no `run_id`.
    """
    found = await asyncio.to_thread(_platform_reader(request).checks)
    pages = reader.settings.dagster_pages
    rows = [_check(key, blocking, state, pages) for key, blocking, state in found]
    bounds = {"evaluations": check_results.EVALUATIONS, "partitions": check_results.PARTITIONS}
    return _json({"looked_at": bounds, "checks": sorted(rows, key=lambda row: (row["asset"], row["check"]))})


@router.get("/quality/rejected", summary="Rejected frames", response_model=Dropped, responses=schemas.row_responses())
async def rejected(request: Request, reader: ReaderOf, params: Range, exchange: AnyExchange = None) -> Response:
    """Count rejected frames by the reason's code and by receipt time. Without `start`: the 30 days up to the newest.

    USD-M and COIN-M futures are counted together: a rejected frame does not name its exchange.
    """
    compute = partial(_counted, params, _rejected)
    unpaged = UnpagedResource("/quality/rejected", REJECTED, "reasons", compute, exchange=exchange)
    return await unpaged_table(request, reader, unpaged, params)


@router.get(
    "/quality/quarantined", summary="Quarantined trades", response_model=Dropped, responses=schemas.row_responses()
)
async def quarantined(request: Request, reader: ReaderOf, params: Range, exchange: AnyExchange = None) -> Response:
    """Count quarantined trades by rule and symbol and by event time. Without `start`: the 30 days up to the newest."""
    compute = partial(_counted, params, _quarantined)
    unpaged = UnpagedResource("/quality/quarantined", QUARANTINED, "reasons", compute, exchange=exchange)
    return await unpaged_table(request, reader, unpaged, params)


def _rejected(state: PinnedTable, _exchange: str | None) -> RejectSource:
    return RejectSource(
        state.table,
        state.snapshot_id,
        "ingest_ts",
        ("reason",),
        reason="split_part(reason, ':', 1)",
        exchange=EXCHANGE_OF_REJECTED[state.identifier],
    )


def _quarantined(state: PinnedTable, exchange: str | None) -> RejectSource:
    return RejectSource(
        state.table,
        state.snapshot_id,
        "event_time",
        ("rule", "exchange", "symbol"),
        reason="rule",
        exchange="exchange",
        symbol="symbol",
        only_exchange=exchange,
    )


def _counted(
    params: RangeParams,
    source_of: Callable[[PinnedTable, str | None], RejectSource],
    states: Sequence[PinnedTable],
    exchange: str | None,
) -> tuple[pa.Table, dict[str, Any]]:
    found = reject_counts.count_rejects([source_of(state, exchange) for state in states], params.start, params.end)
    return found.rows, {"start": None if found.start is None else _instant(found.start.timestamp())}


def _asset(node: dict[str, Any]) -> dict[str, Any]:
    last = next(iter(node["assetMaterializations"]), None) or {}
    return {
        "asset": "/".join(node["assetKey"]["path"]),
        "group": node["groupName"],
        "freshness": (node["freshnessStatusInfo"] or {}).get("freshnessStatus"),
        "last_materialized_at": _instant(float(last["timestamp"]) / 1000) if last else None,
        "last_partition": last.get("partition"),
        "last_run_id": last.get("runId"),
    }


def _check(key: CheckKey, blocking: bool, state: CheckState, pages: str) -> dict[str, Any]:
    path, name = key
    decisive = state.decided_by
    evaluated_at = decisive.evaluated_at if decisive else None
    run_id = (decisive.run_id if decisive else None) or None
    return {
        "asset": "/".join(path),
        "check": name,
        "blocking": blocking,
        "result": state.result,
        "running": bool(state.running),
        "last_attempt": state.last_attempt,
        "status": decisive.status if decisive and evaluated_at is not None else None,
        "severity": decisive.severity if decisive else None,
        "checked_at": None if evaluated_at is None else _instant(evaluated_at),
        "partition": decisive.partition if decisive else None,
        "description": decisive.description if decisive else None,
        "run_id": run_id,
        "run_url": graphql.RUN_URL.format(address=pages, run_id=run_id) if run_id else None,
        "partitions": state.partitions,
        "counts": state.counts,
    }


def _instant(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _platform_reader(request: Request) -> PlatformReader:
    found: PlatformReader = request.app.state.platform_reader
    return found
