"""Third-party JSON: numbers keep every digit, and errors name unexpected values."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.json_reader import Fields, as_type, fits, parse_json

DECIMALS = st.builds(
    lambda digits, exponent, negative: Decimal((int(negative), tuple(map(int, str(digits))), exponent)),
    st.integers(0, 10**40),
    st.integers(-45, 20),
    st.booleans(),
)


@given(DECIMALS)
def test_json_number_keeps_every_digit(value: Decimal) -> None:
    assert parse_json(f'{{"n": {value}}}'.encode())["n"].as_tuple() == value.as_tuple()


@given(DECIMALS, st.integers(1, 38), st.integers(0, 38))
def test_number_fits_a_decimal_type_only_without_losing_digits(value: Decimal, precision: int, scale: int) -> None:
    scale = min(scale, precision)
    with localcontext() as context:
        context.prec = 200
        scaled = value * Decimal(10) ** scale
        holds = scaled == scaled.to_integral_value() and abs(scaled) < Decimal(10) ** precision
    assert fits(value, precision, scale) is holds
    kind = f"decimal({precision}, {scale})"
    if holds:
        assert as_type(value, kind) == value
        assert as_type(value, kind).as_tuple().exponent == -scale
    else:
        with pytest.raises(ValueError, match="does not fit"):
            as_type(value, kind)


@pytest.mark.parametrize("text", ["1e400", "1e-400", "1e999999999", "-1E+99999"])
def test_huge_exponent_is_rejected_cheaply(text: str) -> None:
    assert not fits(parse_json(text.encode()), 38, 26)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        *((text, "not JSON") for text in (b"", b"<!DOCTYPE html>", b"\xff\xfe", b"[" * 100_000, b"{")),
        (b"NaN", "response is NaN"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
    ],
)
def test_invalid_json_is_rejected(body: bytes, reason: str) -> None:
    with pytest.raises(ResponseRejectedError, match=reason):
        Fields(parse_json(body), "response")


@pytest.mark.parametrize(
    "read", ["object", "array", "text", "number", "integer", "digits", "quoted", "milliseconds", "seconds", "moment"]
)
@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e9999999999999999999", '{"b": 1, "b": 2}', r'"\ud800"'])
def test_no_field_accepts_an_unreadable_value(read: str, value: str) -> None:
    fields = Fields(parse_json(f'{{"a": {value}}}'.encode()), "response")
    with pytest.raises(ResponseRejectedError, match=r"response\.a is "):
        getattr(fields, read)("a")


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_rejected(body: bytes) -> None:
    # No other exception may be raised.
    with suppress(ResponseRejectedError):
        Fields(parse_json(body), "response")


@pytest.mark.parametrize("value", ["true", '"1"', "null", "[]", "1.5", "1e30"])
def test_other_values_are_not_integers(value: str) -> None:
    fields = Fields(parse_json(f'{{"n": {value}}}'.encode()), "response")
    with pytest.raises(ResponseRejectedError, match=r"response\.n"):
        fields.integer("n")
