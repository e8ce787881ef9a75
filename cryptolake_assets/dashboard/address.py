"""Keep a widget and its URL parameter in sync: the one that changed last wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeVar

import streamlit as st

T = TypeVar("T")
WRITTEN = "written_to_url"  # session key: parameters that the pages have written into the URL


def read(
    name: str,
    parse: Callable[[str], T | None],
    query: Mapping[str, str] | None = None,
    state: MutableMapping[str, Any] | None = None,
) -> str | None:
    """Set the widget with the key `name` to the URL's value if the URL was changed by a link, by hand or by Back.

    Call it before the widget is drawn. Return the URL's text if `parse` returns None; the widget then keeps its value.
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
    """Write parameters into the URL, all at once: each write is a history entry of the browser. None removes one."""
    changed = {name: text for name, text in texts.items() if text != st.query_params.get(name)}
    if updates := {name: text for name, text in changed.items() if text is not None}:
        st.query_params.update(updates)
    for name in changed.keys() - updates.keys():
        del st.query_params[name]
    st.session_state[WRITTEN] = {**st.session_state.get(WRITTEN, {}), **texts}
