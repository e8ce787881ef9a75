"""The marts' SQL arithmetic on the real Spark server with dbt's session settings, compared with exact Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jinja2 import Environment
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.model.measures import ratio
from cryptolake_assets.platform.dbt import PROJECT_DIR
from cryptolake_assets.settings import Settings

MANY = examples(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LARGEST_PRICE = Decimal("9999999999.99999999")


def digits(maximum: int, scale: int, minimum: int = 0) -> st.SearchStrategy[Decimal]:
    """Return a strategy for decimals of up to `maximum` digits, of all magnitudes."""
    integers = st.integers(1, maximum).flatmap(
        lambda length: st.integers(max(minimum, 10 ** (length - 1) - 1), 10**length - 1)
    )
    return integers.map(lambda value: Decimal(f"{value}E-{scale}"))


@pytest.fixture
def spark(settings: Settings) -> Iterator[SparkSession]:
    session = connect(settings)
    session.conf.set("spark.sql.ansi.enabled", "false")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def exact() -> Any:
    """The macros of `exact.sql`, which do not depend on dbt."""
    text = (PROJECT_DIR / "macros/exact.sql").read_text(encoding="utf-8")
    return Environment(extensions=["jinja2.ext.do"]).from_string(text).module  # noqa: S701  SQL, not HTML


def evaluate(spark: SparkSession, rows: Sequence[tuple[Decimal, ...]], types: tuple[str, ...], sql: str) -> list[Any]:
    """Return the result of `sql` on the columns a, b of each row, in order."""
    return [row.result for row in spark.sql(f"SELECT {sql} AS result {values_of(rows, types)} ORDER BY id").collect()]


def values_of(rows: Sequence[tuple[Decimal, ...]], types: tuple[str, ...]) -> str:
    """Return the FROM clause of the rows, with types."""
    lines = []
    for number, row in enumerate(rows):
        cells = [f"cast('{value:f}' as {kind})" for value, kind in zip(row, types, strict=True)]
        lines.append(f"({number}, {', '.join(cells)})")
    return f"FROM VALUES {', '.join(lines)} AS t(id, {', '.join('ab'[: len(types)])})"


@MANY
@given(st.lists(st.tuples(digits(38, 16), digits(38, 8, minimum=1)), min_size=1, max_size=60))
def test_vwap_equals_the_engines_ratio(spark: SparkSession, exact: Any, pairs: list[tuple[Decimal, Decimal]]) -> None:
    got = evaluate(spark, pairs, ("decimal(38,16)", "decimal(38,8)"), exact.exact_ratio("a", 16, "b", 8))
    expected = [ratio(quote_volume, volume) for quote_volume, volume in pairs]
    assert got == [value if value <= LARGEST_PRICE else None for value in expected]


@MANY
@given(st.lists(st.tuples(digits(18, 8), digits(18, 8, minimum=1)), min_size=1, max_size=60))
def test_ratios_of_prices_are_exact(spark: SparkSession, exact: Any, pairs: list[tuple[Decimal, Decimal]]) -> None:
    got = evaluate(spark, pairs, ("decimal(18,8)", "decimal(18,8)"), exact.exact_ratio("a", 8, "b", 8))
    expected = [ratio(top, bottom) for top, bottom in pairs]
    assert got == [value if value <= LARGEST_PRICE else None for value in expected]


def test_ratio_rounds_halves_up_and_keeps_the_largest_numbers(spark: SparkSession, exact: Any) -> None:
    largest = Decimal("9" * 22 + "." + "9" * 16)
    pairs = [
        (Decimal("0.00000001"), Decimal("2")),
        (Decimal("0.0000000099999999"), Decimal("2")),
        (largest, Decimal("9" * 30 + "." + "9" * 8)),
        (largest, Decimal("9" * 22 + "." + "9" * 8)),
        (Decimal("0"), Decimal("1")),
        (Decimal("1E-16"), Decimal("0.00000001")),
    ]
    got = evaluate(spark, pairs, ("decimal(38,16)", "decimal(38,8)"), exact.exact_ratio("a", 16, "b", 8))
    assert got == [ratio(*pair) for pair in pairs]
    assert got[:2] == [Decimal("0.00000001"), Decimal(0)]


def test_number_that_does_not_fit_fails_the_statement(spark: SparkSession, exact: Any) -> None:
    assert evaluate(spark, [(Decimal(5),)], ("decimal(38,8)",), exact.fits("a * 2", "decimal(18,8)", "vwap")) == [10]
    total = exact.fits("sum(a)", "decimal(38,8)", "volume")
    twice = values_of([(Decimal("9" * 30),)] * 2, ("decimal(38,8)",))
    with pytest.raises(PySparkException, match=r"volume is empty or does not fit decimal\(38,8\)"):
        spark.sql(f"SELECT {total} {twice}").collect()


@MANY
@given(st.lists(st.tuples(digits(18, 8, minimum=1)), min_size=1, max_size=60))
def test_bucket_width_has_three_digits_of_the_price(
    spark: SparkSession, exact: Any, prices: list[tuple[Decimal]]
) -> None:
    got = evaluate(spark, list(prices), ("decimal(18,8)",), exact.bucket_width("a"))
    assert got == [max(Decimal(10) ** (price.adjusted() - 2), Decimal("1e-8")) for (price,) in prices]
