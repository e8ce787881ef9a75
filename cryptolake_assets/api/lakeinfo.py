"""Routes about the lake itself: symbols, gaps, and the catalog's tables with their snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from cryptolake_assets.api import formats, problems, schemas
from cryptolake_assets.api.page_reader import BARS, Reader, UnpagedResource, of_all_families
from cryptolake_assets.api.params import Format, JsonOnly, StateParams, Time
from cryptolake_assets.api.pinned import PinnedTable, epoch_ms
from cryptolake_assets.api.table_routes import AnyExchange, AnySymbol, OneExchange, ReaderOf, unpaged_table
from cryptolake_assets.errors import TableNotFoundError
from cryptolake_assets.lake.coverage import gaps_of
from cryptolake_assets.model.columns import EXCHANGE, TIME, Column
from cryptolake_assets.model.ops_tables import OPS_COVERAGE
from cryptolake_assets.model.table_spec import CATALOG, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

router = APIRouter()
SNAPSHOTS_SHOWN = 50


SPAN_COLUMNS = (
    EXCHANGE,
    Column("symbol", "string", "the exchange's symbol"),
    Column("first_minute", TIME, "open time of the first bar"),
    Column("last_minute", TIME, "open time of the last bar"),
    Column("bars", "long", "number of bars"),
)
GAP_COLUMNS = (
    EXCHANGE,
    Column("symbol", "string", "the exchange's symbol"),
    Column("stream", "string", "trade or aggTrade"),
    Column("gap_from", TIME, "exchange time up to which every trade was received"),
    Column("gap_to", TIME, "exchange time from which every trade is received again"),
)
Symbols = schemas.rows_model("Symbols", "symbols", schemas.row_model("SymbolSpan", SPAN_COLUMNS), exchange=OneExchange)
Gaps = schemas.rows_model("Gaps", "gaps", schemas.row_model("Gap", GAP_COLUMNS), exchange=OneExchange)


class CatalogParams(BaseModel):
    """Parameters of `/catalog`, whose response is nested and covers all tables."""

    as_of: Time | None = Field(
        None, description="Time of the state to read; tables without a snapshot at that time are omitted."
    )
    format: JsonOnly | None = Field(None, description="Only JSON is available.")


State = Annotated[StateParams, Query()]
CatalogState = Annotated[CatalogParams, Query()]


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


@router.get("/symbols", response_model=Symbols, responses=schemas.row_responses())
async def symbols(request: Request, reader: ReaderOf, params: State, exchange: AnyExchange = None) -> Response:
    """List the symbols that have one-minute bars, with their first and last minute; those of the default market first.

    The first row of a symbol has the exchange that answers for it without `exchange=`.
    """
    unpaged = UnpagedResource("/symbols", BARS, "symbols", partial(_spans, reader), exchange=exchange)
    return await unpaged_table(request, reader, unpaged, params)


def _spans(reader: Reader, states: Sequence[PinnedTable], exchange: str | None) -> tuple[pa.Table, dict[str, Any]]:
    rows = [
        {
            "exchange": name,
            "symbol": symbol,
            "first_minute": span.first,
            "last_minute": span.last,
            "bars": span.bars,
        }
        for (name, symbol), span in reader.spans_as_of(states).items()
        if exchange in (None, name)
    ]
    return _rows(SPAN_COLUMNS, rows), {}


@router.get("/gaps", response_model=Gaps, responses=schemas.row_responses(has_symbol=True))
async def gaps(
    request: Request, reader: ReaderOf, params: State, symbol: AnySymbol = None, exchange: AnyExchange = None
) -> Response:
    """List spans of exchange time between two connections in which trades may be missing."""
    coverage = of_all_families(OPS_COVERAGE)
    unpaged = UnpagedResource("/gaps", coverage, "gaps", partial(_gaps, reader, symbol), symbol, exchange)
    return await unpaged_table(request, reader, unpaged, params)


def _gaps(
    reader: Reader, symbol: str | None, states: Sequence[PinnedTable], exchange: str | None
) -> tuple[pa.Table, dict[str, Any]]:
    rows = [
        {
            "exchange": gap.exchange,
            "symbol": gap.symbol,
            "stream": gap.stream,
            "gap_from": _moment(gap.from_ms),
            "gap_to": _moment(gap.to_ms),
        }
        for state in states
        for gap in gaps_of(state.table, state.snapshot_id, exchange=exchange, symbol=symbol)
    ]
    if symbol is not None and not rows:
        reader.require_symbol(symbol, exchange)
    return _rows(GAP_COLUMNS, rows), {}


def _rows(columns: tuple[Column, ...], rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as an Arrow table with the schema of these columns."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=TableSpec("", "", "", columns).arrow_schema())


@router.get("/catalog", response_model=CatalogInfo, responses=schemas.error_responses(404, 406, 422))
async def catalog(request: Request, reader: ReaderOf, params: CatalogState) -> Response:
    """List every table with its description, columns, size and newest snapshots."""
    formats.choose(Format.JSON if params.format else None, request.headers.get("accept"), (Format.JSON,))
    return Response(await reader.run(_catalog, reader, params.as_of), media_type="application/json")


def _catalog(reader: Reader, as_of: datetime | None) -> bytes:
    tables = []
    for identifier in reader.table_cache.identifiers():
        try:
            table = reader.table_cache.table(identifier)
        except TableNotFoundError:  # dropped since the table cache was refreshed
            continue
        snapshot = table.current_snapshot() if as_of is None else table.snapshot_as_of_timestamp(epoch_ms(as_of))
        if snapshot is not None or as_of is None:
            tables.append(_table_info(table, snapshot))
    if as_of is not None and not tables:
        raise problems.unknown_snapshot()
    return orjson.dumps({"tables": tables})


def _table_info(table: Table, snapshot: Snapshot | None) -> dict[str, Any]:
    """Return the JSON of a table as of a snapshot, with the newest snapshots up to it."""
    summary = _summary(snapshot)
    history = [
        item for item in table.metadata.snapshots if snapshot is None or item.timestamp_ms <= snapshot.timestamp_ms
    ]
    newest = sorted(history, key=lambda item: item.timestamp_ms, reverse=True)[:SNAPSHOTS_SHOWN]
    schema = table.schema()
    if snapshot is not None and snapshot != table.current_snapshot() and snapshot.schema_id is not None:
        schema = table.schemas()[snapshot.schema_id]
    return {
        "table": ".".join((CATALOG, *table.name()[-2:])),
        "doc": table.properties.get("comment", ""),
        "snapshot_id": str(snapshot.snapshot_id) if snapshot else None,
        "rows": int(summary.get("total-records", 0)),
        "data_files": int(summary.get("total-data-files", 0)),
        "size_bytes": int(summary.get("total-files-size", 0)),
        "columns": [
            {"name": field.name, "type": str(field.field_type), "doc": field.doc or ""} for field in schema.fields
        ],
        "snapshots": [
            {
                "snapshot_id": str(item.snapshot_id),
                "committed_at": _instant(_moment(item.timestamp_ms)),
                "operation": item.summary.operation.value if item.summary else "",
                "rows": int(_summary(item)["total-records"]) if "total-records" in _summary(item) else None,
            }
            for item in newest
        ],
    }


def _summary(snapshot: Snapshot | None) -> dict[str, str]:
    return dict(snapshot.summary.additional_properties) if snapshot and snapshot.summary else {}


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _instant(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return text.replace("+00:00", "Z")
