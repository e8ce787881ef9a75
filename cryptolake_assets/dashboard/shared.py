"""Shared by all pages: the API client, error boxes, exact tables and the selectors of market and symbol.

Numbers have thousands separators and all stored digits; a column has one number of decimals. Times are UTC, with
seconds only where they are not whole minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import streamlit as st
import structlog

from cryptolake_assets.dashboard import address
from cryptolake_assets.dashboard.lake import Lake
from cryptolake_assets.dashboard.series import aligned, exact, grouped, right_aligned, texts_by_float
from cryptolake_assets.errors import ApiError, ApiRejectedError, ApiResponseError, ApiUnreachableError
from cryptolake_assets.model.markets import EXCHANGES
from cryptolake_assets.model.symbols import in_capitals
from cryptolake_assets.settings import get_settings

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

T = TypeVar("T")

log = structlog.get_logger(__name__)

MALFORMED = (KeyError, TypeError, ValueError)  # raised by code that reads a response with an unexpected shape

ROW_PX = 35  # height of a row of Streamlit's tables
UNKNOWN = "?"
UNAUTHORIZED = (401, 403)
CHOSEN = "chosen"  # session key, exchange and symbol: Streamlit forgets a widget's value while another page is shown
NO_BARS = (
    "**No bars yet.** They appear once the first hour of Silver is published: `make demo` replays recorded trades, "
    "`cryptolake up` follows the live market. [Operations](/operations) shows the running parts."
)

RETRY_S = 3.0
# Columns by the API's names. Identifiers have no thousands separators.
IDENTIFIERS = ("first_missing_id", "last_missing_id", "port", "snapshot")
WHOLE_MINUTES = ("window_start",)

Height = int | Literal["content"]
Widths = Mapping[str, int | Literal["large"]]  # widths of wide columns, by the API's names; px or Streamlit's name


@st.cache_resource
def lake() -> Lake:
    """Return the API client, one for all sessions."""
    return Lake(get_settings())


def refresh_s() -> float:
    return get_settings().dashboard_refresh_s


def guarded(page: Callable[[], None]) -> Callable[[], None]:
    """Wrap a page: while the API cannot be read, show the error and retry."""

    def shown() -> None:
        with_error_box(page, retries=True)

    shown.__name__ = page.__name__
    return shown


def with_error_box(part: Callable[[], None], *, retries: bool = False) -> None:
    """Draw a part of a page; if the API cannot be read, show the error in its place and keep the rest of the page.

    With `retries`, rerun the page once the API responds: for parts that Streamlit does not rerun by itself.
    """
    try:
        part()
    except (ApiError, *MALFORMED) as error:
        problem(error if isinstance(error, ApiError) else _malformed(error))
        if retries:
            _retry()


def _malformed(error: Exception) -> ApiResponseError:
    """Log an error in reading a response, and return it as an error to show."""
    log.exception("malformed_response", url=lake().url)
    return ApiResponseError(
        f"dashboard: a response of {lake().url} has an unexpected shape ({type(error).__name__}: {error}). Run the API "
        "and the dashboard of the same version: `cryptolake up` updates both."
    )


def problem(error: ApiError) -> None:
    """Show an error of the API with its remedy."""
    if isinstance(error, ApiUnreachableError):
        st.error(
            f"**The API does not respond** at {lake().url}. Start it with `cryptolake up`; `cryptolake logs api` shows "
            "why it stopped. This page retries automatically.",
            icon=":material/cloud_off:",
        )
    elif isinstance(error, ApiRejectedError) and error.status in UNAUTHORIZED:
        st.error(
            "**The API requires a key.** Create one with `cryptolake keys create dashboard --scope read --scope "
            "operate`, set it as `CRYPTOLAKE_DASHBOARD_API_KEY`, and run `cryptolake up`.",
            icon=":material/key:",
        )
    else:
        st.error(str(error), icon=":material/error:")


@st.fragment(run_every=RETRY_S)
def _retry() -> None:
    """Poll the API and rerun the page once it responds; skip the first run, because the API has just failed."""
    st.caption(f"Retrying every {RETRY_S:g} s …")
    if st.session_state.pop("retried", False):
        try:
            lake().symbols()
        except (ApiError, *MALFORMED):
            pass
        else:
            st.rerun()
    st.session_state["retried"] = True


def attempt(read: Callable[[], T]) -> T | ApiRejectedError:
    """Return the result of `read`, or the API's rejection, so that one unreadable table does not hide the others."""
    try:
        return read()
    except ApiRejectedError as error:
        return error


def no_bars_yet() -> None:
    """Show that Silver has no bars yet, and rerun the page until it has."""
    st.info(NO_BARS, icon=":material/hourglass_empty:")
    _retry()


def no_mart_yet(what: str) -> None:
    """Show that dbt has not built a mart yet."""
    st.info(
        f"**No {what} yet.** dbt builds them within minutes of the first one-minute bars; `make dbt` builds them now.",
        icon=":material/hourglass_empty:",
    )


def choose_symbol(symbols: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Draw the selectors of market and symbol; return the selected item of `symbols`, rows of `/symbols`.

    The page writes both into the URL even if they are the default: a shared link must keep them when more symbols
    exist. A link without a market gets the one that the API answers with, which comes first among the rows.
    """
    by_exchange: dict[str, dict[str, Mapping[str, Any]]] = {}
    for item in symbols:
        by_exchange.setdefault(item["exchange"], {})[item["symbol"]] = item
    unknown_exchange = address.read("exchange", lambda text: text if text in by_exchange else None)
    earlier_exchange, earlier_symbol = st.session_state.get(CHOSEN, (None, None))
    if st.session_state.get("exchange") not in by_exchange:
        linked = in_capitals(st.query_params.get("symbol", ""))
        having = [exchange for exchange, named in by_exchange.items() if linked in named]
        possible = (*having[:1], earlier_exchange, *by_exchange)
        st.session_state["exchange"] = next(exchange for exchange in possible if exchange in by_exchange)
    with st.container(width=240):
        market = st.selectbox(
            "Market",
            list(by_exchange),
            key="exchange",
            format_func=market_title,
            on_change=_replace_symbol,
            args=(by_exchange,),
        )
    exchange = str(market)
    named = by_exchange[exchange]
    unknown_symbol = address.read("symbol", lambda text: in_capitals(text) if in_capitals(text) in named else None)
    if st.session_state.get("symbol") not in named:
        st.session_state["symbol"] = earlier_symbol if earlier_symbol in named else next(iter(named))
    with st.container(width=180):
        symbol = str(st.selectbox("Symbol", list(named), key="symbol"))
    for what, unknown in (("market", unknown_exchange), ("symbol", unknown_symbol)):
        if unknown is not None:
            shown = f"showing {symbol} of {market_title(exchange)}"
            st.toast(f"Unknown {what} {unknown!r}: {shown}.", icon=":material/warning:", duration="long")
    st.session_state[CHOSEN] = exchange, symbol
    return named[symbol]


def _replace_symbol(by_exchange: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the symbol if the newly selected market lacks it, before the links to other pages are drawn."""
    named = by_exchange[st.session_state["exchange"]]
    if st.session_state.get("symbol") not in named:
        st.session_state["symbol"] = next(iter(named))


def market_title(exchange: str) -> str:
    """Return the name of an exchange's market, such as `Binance Spot`."""
    return EXCHANGES[exchange].title if exchange in EXCHANGES else exchange


def chosen_address() -> dict[str, str]:
    """Return the URL parameters of the selected market and symbol, also on a page without their selectors."""
    found = dict(zip(("exchange", "symbol"), st.session_state.get(CHOSEN, ()), strict=False))
    for name in ("exchange", "symbol"):
        text = st.session_state.get(name) or found.get(name) or st.query_params.get(name)
        found |= {name: text} if text else {}
    return found


def exact_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    key: str,
    max_rows: int | None = None,
    wide: Widths | None = None,
    links: Mapping[str, str] | None = None,
) -> None:
    """Draw rows as a table; `columns` maps the API's names to headings.

    `wide` sets widths; `links` makes links, with a pattern for the part of the address to show. More than `max_rows`
    rows scroll. Numbers are text with all stored digits, because Streamlit draws decimal columns as floats.
    """
    import pyarrow as pa

    shown: dict[str, list[str]] = {}
    numeric: list[str] = []
    signed: dict[str, dict[float, str]] = {}
    for name, heading in columns.items():
        values = [row.get(name) for row in rows]
        shown[heading] = cells = _column(name, values)
        if not any(map(_is_number, values)):
            continue
        numeric.append(heading)
        if not all(_is_number(value) for value in values if value is not None):
            continue
        separate = str if name in IDENTIFIERS else grouped
        if by_float := _signed(cells):
            signed[heading] = {number: separate(text) for number, text in by_float.items()}
        else:
            shown[heading] = right_aligned([separate(cell) if cell else "" for cell in cells])
    config = {heading: st.column_config.TextColumn(alignment="right") for heading in numeric if heading not in signed}
    config |= {columns[name]: st.column_config.TextColumn(width=width) for name, width in (wide or {}).items()}
    config |= {columns[name]: st.column_config.LinkColumn(display_text=text) for name, text in (links or {}).items()}
    height: Height = "content" if max_rows is None or len(rows) <= max_rows else ROW_PX * (max_rows + 1)
    with st.container(key=key):
        table = painted(shown, signed) if signed else pa.table(shown)
        st.dataframe(table, hide_index=True, column_config=config, height=height, placeholder="")


def _signed(texts: Sequence[str]) -> dict[float, str] | None:
    """Return the texts of a column of numbers by their floats, if some are negative and floats are unambiguous."""
    return texts_by_float(texts) if any(text.startswith("-") for text in texts) else None


def painted(columns: Mapping[str, Sequence[str]], signed: Mapping[str, Mapping[float, str]]) -> Styler:
    """Return a table with the `signed` columns as floats that are displayed as their exact texts.

    Tables sort text from left to right, which puts negative numbers in the wrong order.
    """
    import pandas as pd

    numbers = {heading: [float(cell) if cell.strip() else None for cell in columns[heading]] for heading in signed}
    frame = pd.DataFrame({**columns, **numbers})
    return frame.style.format({heading: texts.__getitem__ for heading, texts in signed.items()}, na_rep="")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    return isinstance(value, int | float) or (
        isinstance(value, str) and value.lstrip("-").replace(".", "", 1).isdigit()
    )


def _column(name: str, values: Sequence[Any]) -> list[str]:
    """Return the cells of a column as text: numbers with all stored digits and the same number of decimals."""
    if all(_is_number(value) for value in values if value is not None):
        return aligned([None if value is None else exact(value) for value in values])
    if name in WHOLE_MINUTES:
        return [minute(value) for value in values]
    if name == "exchange":
        return ["" if value is None else market_title(value) for value in values]
    return [_cell(value) for value in values]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return exact(value)
    return when(value) if isinstance(value, str) and value[10:11] == "T" and value.endswith("Z") else str(value)


def counted(number: int, name: str) -> str:
    """Return a number with its noun: `1 bar`, `2,000 bars`."""
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def when(text: str | None) -> str:
    """Return a time of the API to the second: `2024-07-18 23:57:00`, UTC; empty for None."""
    return "" if not text else text[:19].replace("T", " ")


def minute(text: str | None) -> str:
    """Return a time of the API to the minute: `2024-07-18 23:57`, UTC; empty for None."""
    return when(text)[:16]


def ago(text: str) -> str:
    """Return how long ago a time of the API was, such as `5 min ago`."""
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
