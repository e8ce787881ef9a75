"""The checks that every candidate must pass before it is published, and the result of a check. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptolake_assets.model.table_spec import TableSpec

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SAMPLE_ROWS = 10  # maximum failing rows shown with a check


@dataclass(frozen=True)
class CheckOutcome:
    """The result of one check; `failing_rows` are at most SAMPLE_ROWS, formatted as text.

    `counts` are the numbers checked, which can be summed over partitions.
    """

    name: str
    passed: bool
    description: str
    failing_count: int = 0
    failing_rows: list[dict[str, str]] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)


def check_candidate(
    duck: duckdb.DuckDBPyConnection, spec: TableSpec, candidate: pa.Table, rules: Mapping[str, str]
) -> list[CheckOutcome]:
    """Check the candidate's schema, unique key and rows.

    `rules` maps check names to predicates that are true on a failing row. They are evaluated on the given connection,
    with the table in memory.
    """
    schema = spec.arrow_schema()
    same_schema = candidate.schema.equals(schema)
    outcomes = [CheckOutcome("schema", same_schema, "columns and types match the table")]
    key = ", ".join(spec.key)
    repeated = f"SELECT {key}, count(*) AS copies FROM candidate GROUP BY ALL HAVING count(*) > 1"
    duck.register("candidate", candidate)
    failing = ", ".join(f"count(*) FILTER (WHERE {predicate})" for predicate in rules.values())
    counts = duck.sql(f"SELECT (SELECT count(*) FROM ({repeated})), {failing} FROM candidate").fetchall()[0]
    queries = [repeated, *(f"SELECT * FROM candidate WHERE {predicate}" for predicate in rules.values())]
    descriptions = [f"({key}) is unique", *(f"no row where {predicate}" for predicate in rules.values())]
    for name, count, query, description in zip(("unique_key", *rules), counts, queries, descriptions, strict=True):
        sample = _sample(duck, query) if count else []
        outcomes.append(CheckOutcome(name, count == 0, description, count, sample))
    return outcomes


def joined(outcomes: Sequence[CheckOutcome]) -> list[CheckOutcome]:
    """Merge the outcomes of each name into one, which passes if all of them pass."""
    by_name: dict[str, list[CheckOutcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.name, []).append(outcome)
    return [
        CheckOutcome(
            name,
            all(part.passed for part in parts),
            "; ".join(part.description for part in parts),
            sum(part.failing_count for part in parts),
            [row for part in parts for row in part.failing_rows][:SAMPLE_ROWS],
            _summed(part.counts for part in parts),
        )
        for name, parts in by_name.items()
    ]


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)  # keeps zeros, which `+` drops
    return dict(total)


def _sample(duck: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = (
        duck.sql(f"SELECT COLUMNS(*)::varchar FROM ({query}) LIMIT {SAMPLE_ROWS}").to_arrow_table().to_pylist()
    )
    return rows
