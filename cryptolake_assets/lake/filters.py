"""Build conditions on a table's columns for PyIceberg scans."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any

from cryptolake_assets.model.windows import DAY, day_of

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression


def equal(column: str, value: Any) -> BooleanExpression:
    from pyiceberg.expressions import EqualTo

    return _condition(EqualTo, column, value)


def one_of(column: str, values: Collection[str]) -> BooleanExpression:
    from pyiceberg.expressions import In

    kind: Any = In
    condition: BooleanExpression = kind(column, frozenset(values))
    return condition


def at_least(column: str, value: Any) -> BooleanExpression:
    from pyiceberg.expressions import GreaterThanOrEqual

    return _condition(GreaterThanOrEqual, column, value)


def at_most(column: str, value: Any) -> BooleanExpression:
    from pyiceberg.expressions import LessThanOrEqual

    return _condition(LessThanOrEqual, column, value)


def above(column: str, value: Any) -> BooleanExpression:
    """Return the condition `column` > `value`."""
    from pyiceberg.expressions import GreaterThan

    return _condition(GreaterThan, column, value)


def below(column: str, value: Any) -> BooleanExpression:
    """Return the condition `column` < `value`."""
    from pyiceberg.expressions import LessThan

    return _condition(LessThan, column, value)


def is_null(column: str) -> BooleanExpression:
    from pyiceberg.expressions import IsNull

    kind: Any = IsNull
    condition: BooleanExpression = kind(column)
    return condition


def all_of(*conditions: BooleanExpression) -> BooleanExpression:
    """Return the conjunction of the conditions; always true without conditions."""
    from pyiceberg.expressions import AlwaysTrue, And

    return reduce(And, conditions) if conditions else AlwaysTrue()


def any_of(*conditions: BooleanExpression) -> BooleanExpression:
    """Return the disjunction of the conditions; always false without conditions."""
    from pyiceberg.expressions import AlwaysFalse, Or

    return reduce(Or, conditions) if conditions else AlwaysFalse()


def between(column: str, start: datetime | date, end: datetime | date) -> str:
    """Return start <= column < end in PyIceberg's filter syntax."""
    return f"{column} >= '{start.isoformat()}' and {column} < '{end.isoformat()}'"


def silver_day(moment: datetime) -> str:
    """Return the filter for the bars of the UTC day of `moment`."""
    start = day_of(moment)
    return between("window_start", start, start + DAY)


def gold_month(day: date) -> str:
    """Return the filter for the daily rows of the month of `day`."""
    start = day.replace(day=1)
    return between("trade_date", start, (start + timedelta(days=32)).replace(day=1))


def _condition(kind: Any, column: str, value: Any) -> BooleanExpression:
    """Build a condition; PyIceberg requires times and dates as ISO text."""
    condition: BooleanExpression = kind(column, value.isoformat() if hasattr(value, "isoformat") else value)
    return condition
