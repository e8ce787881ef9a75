"""Routes about the lake itself: symbols, gaps, and the catalog's tables with their snapshots."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from cryptolake_assets.api import problems, schemas
from cryptolake_assets.api.params import Format, Symbol
from cryptolake_assets.api.reader import Reader, make_answer
from cryptolake_assets.api.tables import ReaderOf, Ready
from cryptolake_assets.errors import TableNotFoundError
from cryptolake_assets.lake.coverage import gaps_of
from cryptolake_assets.lake.tables import CATALOG, OPS_COVERAGE, SILVER_OHLCV

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

router = APIRouter(responses=schemas.common())
SNAPSHOTS_SHOWN = 50
MISSING: dict[int | str, dict[str, Any]] = {503: schemas.problem("The table does not exist (yet)")}


class SymbolSpan(BaseModel):
    symbol: str
    first_minute: datetime
    last_minute: datetime
    bars: int


class Symbols(BaseModel):
    snapshot_id: schemas.SnapshotId
    symbols: list[SymbolSpan]


class Gap(BaseModel):
    symbol: str
    stream: str
    gap_from: datetime
    gap_to: datetime


class Gaps(BaseModel):
    snapshot_id: schemas.SnapshotId
    gaps: list[Gap]


class ColumnInfo(BaseModel):
    name: str
    type: str
    doc: str


class SnapshotInfo(BaseModel):
    snapshot_id: str
    committed_at: datetime
    operation: str
    rows: int | None


class TableInfo(BaseModel):
    table: str
    doc: str
    snapshot_id: schemas.SnapshotId
    rows: int
    data_files: int
    size_bytes: int
    columns: list[ColumnInfo]
    snapshots: list[SnapshotInfo]


class CatalogInfo(BaseModel):
    tables: list[TableInfo]


@router.get("/symbols", response_model=Symbols, responses=MISSING)
async def symbols(request: Request, reader: ReaderOf) -> Response:
    """Symbols with one-minute bars, from when to when."""
    return Ready(request, await reader.run(_symbols, reader, str(request.url.path)))


def _symbols(reader: Reader, identity: str) -> Any:
    table = reader.heads.table(SILVER_OHLCV.identifier)
    snapshot_id = table.metadata.current_snapshot_id
    found = [
        {
            "symbol": symbol,
            "first_minute": _instant(span.first),
            "last_minute": _instant(span.last),
            "bars": span.bars,
        }
        for symbol, span in reader.symbols.spans(table).items()
    ]
    body = orjson.dumps({"snapshot_id": None if snapshot_id is None else str(snapshot_id), "symbols": found})
    return make_answer(body, Format.JSON, "/symbols", SILVER_OHLCV.identifier, snapshot_id, snapshot_id, identity)


@router.get("/gaps", response_model=Gaps, responses={**MISSING, 404: schemas.problem("Unknown symbol")})
async def gaps(request: Request, reader: ReaderOf, symbol: Annotated[Symbol | None, Query()] = None) -> Response:
    """Spans of exchange time between two connections of which nobody can say that every trade was received."""
    name = symbol.upper() if symbol else None
    return Ready(request, await reader.run(_gaps, reader, name, f"{request.url.path}?{request.url.query}"))


def _gaps(reader: Reader, symbol: str | None, identity: str) -> Any:
    table = reader.heads.table(OPS_COVERAGE.identifier)
    snapshot_id = table.metadata.current_snapshot_id
    found = [
        {
            "symbol": gap.symbol,
            "stream": gap.stream,
            "gap_from": _instant(datetime.fromtimestamp(gap.from_ms / 1000, UTC)),
            "gap_to": _instant(datetime.fromtimestamp(gap.to_ms / 1000, UTC)),
        }
        for gap in gaps_of(table)
        if symbol in (None, gap.symbol)
    ]
    if symbol is not None and not found and symbol not in reader.known_symbols():
        raise problems.unknown_symbol(symbol)
    body = orjson.dumps({"snapshot_id": None if snapshot_id is None else str(snapshot_id), "gaps": found})
    return make_answer(body, Format.JSON, "/gaps", OPS_COVERAGE.identifier, snapshot_id, snapshot_id, identity)


@router.get("/catalog", response_model=CatalogInfo)
async def catalog(reader: ReaderOf) -> Response:
    """Every table: what it means, its columns, its size and its newest snapshots."""
    return Response(await reader.run(_catalog, reader), media_type="application/json")


def _catalog(reader: Reader) -> bytes:
    tables = []
    for identifier in reader.heads.identifiers():
        try:
            tables.append(_described(reader.heads.table(identifier)))
        except TableNotFoundError:  # dropped since the catalog was looked at
            continue
    return orjson.dumps({"tables": tables})


def _described(table: Table) -> dict[str, Any]:
    current = table.current_snapshot()
    summary = _summary(current)
    newest = sorted(table.metadata.snapshots, key=lambda item: item.timestamp_ms, reverse=True)[:SNAPSHOTS_SHOWN]
    return {
        "table": ".".join((CATALOG, *table.name()[-2:])),
        "doc": table.properties.get("comment", ""),
        "snapshot_id": str(current.snapshot_id) if current else None,
        "rows": int(summary.get("total-records", 0)),
        "data_files": int(summary.get("total-data-files", 0)),
        "size_bytes": int(summary.get("total-files-size", 0)),
        "columns": [
            {"name": field.name, "type": str(field.field_type), "doc": field.doc or ""}
            for field in table.schema().fields
        ],
        "snapshots": [
            {
                "snapshot_id": str(item.snapshot_id),
                "committed_at": _instant(datetime.fromtimestamp(item.timestamp_ms / 1000, UTC)),
                "operation": item.summary.operation.value if item.summary else "",
                "rows": int(_summary(item)["total-records"]) if "total-records" in _summary(item) else None,
            }
            for item in newest
        ],
    }


def _summary(snapshot: Snapshot | None) -> dict[str, str]:
    return dict(snapshot.summary.additional_properties) if snapshot and snapshot.summary else {}


def _instant(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return text.replace("+00:00", "Z")
