"""Hypothesis strategies shared by several test directories."""

from __future__ import annotations

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NUMBER_TEXTS = (
    st.integers(0, 14).flatmap(lambda places: st.decimals(-(10**11), 10**11, places=places)).map("{:f}".format)
)
"""Numbers as text; some fit the column of a price or rate, others do not."""
HOSTILE = JSON | NUMBER_TEXTS
"""Values of a field: any JSON, and numbers that a parser may accept, so that tests cover both verdicts."""
