"""Which symbols are followed, and which times a table of the market holds of each: what a source is asked from, and
what its checks look at."""

from __future__ import annotations

from datetime import datetime

from cryptolake_assets.captures.tracked_symbols import resolve_subscriptions
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.coverage import read_coverage
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.model.windows import DAY
from cryptolake_assets.settings import Settings


def tracked_symbols(settings: Settings, clock: datetime) -> tuple[str, ...]:
    """Symbols that the settings name, and those that were followed in the day before the exchange's clock: a choice by
    pattern or by volume does not say which."""
    since_ms = (clock - DAY).timestamp() * 1000
    covered = {row.symbol for row in read_coverage(settings) if not row.of_archive and row.connected_to_ms > since_ms}
    return tuple(sorted({*resolve_subscriptions(settings).symbols, *covered}))


def stored_times(
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
