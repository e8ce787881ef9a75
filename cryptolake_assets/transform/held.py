"""Which times a table of the market holds, by symbol: what a source is asked from, and what its checks look at."""

from __future__ import annotations

from datetime import datetime

from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.table_spec import TableSpec
from cryptolake_assets.settings import Settings


def times_held(
    settings: Settings, spec: TableSpec, where: str = "", since: datetime | None = None
) -> dict[str, list[datetime]]:
    """The times of the first key column by symbol, in order. `where` is a further filter as PyIceberg writes it."""
    column = spec.key[0]
    filters = [f"{column} >= '{since.isoformat()}'"] if since is not None else []
    filters += [where] if where else []
    scan = load_table(settings, spec).scan(selected_fields=(column, "symbol"))
    for item in filters:
        scan = scan.filter(item)
    rows = scan.to_arrow()
    found: dict[str, list[datetime]] = {}
    for symbol, moment in sorted(zip(rows.column("symbol").to_pylist(), rows.column(column).to_pylist(), strict=True)):
        found.setdefault(symbol, []).append(moment)
    return found
