"""JSON of others: digits are kept, whatever the number, and what does not fit is said."""

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
def test_a_number_of_json_keeps_every_digit(value: Decimal) -> None:
    assert parse_json(f'{{"n": {value}}}'.encode())["n"].as_tuple() == value.as_tuple()


@given(DECIMALS, st.integers(1, 38), st.integers(0, 38))
def test_what_fits_is_the_same_number_and_what_does_not_would_lose_a_digit(
    value: Decimal, precision: int, scale: int
) -> None:
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
def test_a_monstrous_number_is_cheap_to_refuse(text: str) -> None:
    assert not fits(parse_json(text.encode()), 38, 26)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        *((text, "not JSON") for text in (b"", b"<!DOCTYPE html>", b"\xff\xfe", b"[" * 100_000, b"{")),
        (b"NaN", "answer is NaN"),
        (b'{"a": 1, "a": 2}', "key twice"),
    ],
)
def test_what_is_not_json_is_rejected(body: bytes, reason: str) -> None:
    with pytest.raises(ResponseRejectedError, match=reason):
        Fields(parse_json(body), "answer")


@pytest.mark.parametrize(
    "read", ["object", "array", "text", "number", "whole", "digits", "quoted", "milliseconds", "seconds", "moment"]
)
@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e9999999999999999999", '{"b": 1, "b": 2}', r'"\ud800"'])
def test_no_field_takes_a_value_that_cannot_be_read(read: str, value: str) -> None:
    fields = Fields(parse_json(f'{{"a": {value}}}'.encode()), "answer")
    with pytest.raises(ResponseRejectedError, match=r"answer\.a is "):
        getattr(fields, read)("a")


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_rejected(body: bytes) -> None:
    # Nothing else may be raised.
    with suppress(ResponseRejectedError):
        Fields(parse_json(body), "answer")


@pytest.mark.parametrize("value", ["true", '"1"', "null", "[]", "1.5", "1e30"])
def test_a_whole_number_is_nothing_else(value: str) -> None:
    fields = Fields(parse_json(f'{{"n": {value}}}'.encode()), "answer")
    with pytest.raises(ResponseRejectedError, match=r"answer\.n"):
        fields.whole("n")
