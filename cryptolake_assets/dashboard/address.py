"""A choice that lives in a widget and in the URL: whichever of the two was changed last says what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeVar

import streamlit as st

T = TypeVar("T")
WRITTEN = "written_to_url"
"""In the session: what the pages themselves put into the URL, by parameter."""


def asked(
    name: str,
    parse: Callable[[str], T | None],
    query: Mapping[str, str] | None = None,
    state: MutableMapping[str, Any] | None = None,
) -> str | None:
    """Before the widget with the key `name` is drawn: gives it the URL's value, if the URL is not what was written last
    (a link, a typed address, the browser's Back).

    Returns the URL's text if `parse` makes nothing of it; the widget then keeps what it has.
    """
    query = st.query_params if query is None else query
    session: MutableMapping[str, Any] = st.session_state if state is None else state  # type: ignore[assignment]
    text = query.get(name)
    if text is None or (text == session.get(WRITTEN, {}).get(name) and name in session):
        return None
    value = parse(text)
    if value is None:
        return text
    session[name] = value
    return None


def write(**texts: str | None) -> None:
    """Puts the choices into the URL, at once: each writing is a step of the browser's Back. None takes one out."""
    changed = {name: text for name, text in texts.items() if text != st.query_params.get(name)}
    if said := {name: text for name, text in changed.items() if text is not None}:
        st.query_params.update(said)
    for name in changed.keys() - said.keys():
        del st.query_params[name]
    st.session_state[WRITTEN] = {**st.session_state.get(WRITTEN, {}), **texts}
