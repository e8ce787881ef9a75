"""Quality page: latest check results, rejected frames and quarantined trades, gaps, and the counts of each run."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import streamlit as st

from cryptolake_assets.dashboard.shared import (
    UNKNOWN,
    attempt,
    counted,
    exact_table,
    lake,
    problem,
    refresh_s,
    when,
    with_error_box,
)
from cryptolake_assets.errors import ApiRejectedError

Checks = list[dict[str, Any]]
Read = dict[str, Any] | ApiRejectedError | None  # a response, its rejection, or None while its table does not exist

# By the API's names, the worst first.
VERDICTS = {
    "failed": "✗ failed",
    "errored": "▲ not evaluated, run failed",
    "warned": "▲ warned",
    "passed": "✓ passed",
    "skipped": "○ skipped",
    "never_run": "○ not run",
}
RUNNING = "◐ running"
NOT_EVALUATED = ("errored", "skipped", "never_run")
HEADLINE = {
    "Checks passed": ("passed",),
    "Checks warned": ("warned",),
    "Checks failed": ("failed",),
    "Checks not evaluated": NOT_EVALUATED,
}
OFFICIAL = "official_klines"
BARS_COMPARED, BARS_AGREEING = "bars_compared", "bars_agreeing"  # counts of the check `OFFICIAL`
RUNS = 200
DIFFERENCES = 500
ROWS = 12  # visible rows of a table; more scroll
MISSING_TABLE = {
    "exchange": "Market",
    "symbol": "Symbol",
    "stream": "Stream",
    "first_missing_id": "First missing id",
    "last_missing_id": "Last missing id",
    "ids_missing": "Ids missing",
    "missing_after": "After (UTC)",
    "missing_before": "Before (UTC)",
    "outcome": "Outcome",
    "open_because": "Open because",
    "closed_at": "Closed (UTC)",
}
MISSING = 500
GAP_ROUTES = ("/gaps", "/quality/rejected", "/quality/quarantined")
WINDOW = "The 30 days up to the newest row; the API counts other ranges by `start` and `end`."
REFRESH_FACTOR = 5  # this page refreshes less often than others: checks change with runs, not with trades
CHECK_TABLE = {
    "verdict": "Result",
    "asset": "Asset",
    "check": "Check",
    "over": "Partitions",
    "run_url": "Run",
    "description": "Description",
    "partition": "Partition",
    "checked_at": "Checked (UTC)",
    "kind": "Kind",
}
RUN_LINK = r"/runs/([^/]{8})"  # part of a run's address that is shown: the first characters of its id
REASON_TABLE = {
    "reason": "Reason",
    "exchange": "Market",
    "symbol": "Symbol",
    "rows": "Rows",
    "first_at": "First (UTC)",
    "last_at": "Last (UTC)",
}
DIFFERENCE_TABLE = {
    "exchange": "Market",
    "symbol": "Symbol",
    "window_start": "Open time (UTC)",
    "field": "Field",
    "ours": "Ours",
    "official": "Official",
    "tolerated": "Tolerated",
}
GAP_TABLE = {
    "exchange": "Market",
    "symbol": "Symbol",
    "stream": "Stream",
    "gap_from": "From (UTC)",
    "gap_to": "To (UTC)",
}
RUN_TABLE = {
    "finished_at": "Finished (UTC)",
    "asset": "Asset",
    "partition": "Partition",
    "engine": "Engine",
    "passed": "Published",
    "rows_in": "Rows read",
    "rows_valid": "Rows valid",
    "rows_dropped": "Rows dropped",
    "rows_duplicate": "Duplicates",
    "rows_written": "Rows written",
    "duration_ms": "Duration (ms)",
    "snapshot": "Snapshot",
}


def render() -> None:
    st.fragment(lambda: with_error_box(_draw), run_every=REFRESH_FACTOR * refresh_s())()


def verdict(check: dict[str, Any]) -> str:
    """Return a check's last finished result, marked if it is running or if its last run failed before the check."""
    result = VERDICTS[check["result"]]
    if check["running"]:
        return RUNNING if check["result"] == "never_run" else f"{result} · running"
    run_failed = check["last_attempt"] == "EXECUTION_FAILED" and check["result"] != "errored"
    return f"{result} · last run failed" if run_failed else result


def over(check: dict[str, Any]) -> str:
    """Return the partitions of a check's result: `2 hours`, `1 of 2 hours failed`; empty without partitions."""
    partitions = check["partitions"]
    if partitions is None:
        return ""
    unit = partitions["unit"] or "partition"
    evaluated = counted(partitions["evaluated"], unit)
    texts = [f"{partitions[name]:,} of {evaluated} {name}" for name in ("failed", "warned") if partitions[name]]
    if partitions["evaluated"] and not texts:
        texts = [evaluated]
    if partitions["errored"]:
        texts.append(f"{counted(partitions['errored'], unit)} not evaluated")
    return ", ".join(texts)


def agreement(check: dict[str, Any]) -> str:
    """Return the result of the comparison with official klines: `14 of 14 bars, 2 hours`."""
    counts, partitions = check["counts"], over(check)
    if BARS_COMPARED not in counts:
        text = check["description"] or VERDICTS[check["result"]].partition(" ")[2]
    else:
        text = f"{counts.get(BARS_AGREEING, 0):,} of {counted(counts[BARS_COMPARED], 'bar')}"
        text += f", {partitions}" if partitions else ""
        if check["result"] in ("warned", "failed"):
            text += f"; {check['partition']}: {check['description']}"
    return f"{text} · running" if check["running"] else text


def check_rows(checks: Checks) -> Checks:
    """Return the rows of the table of checks, the worst first."""
    ranks = list(VERDICTS)
    return [
        {
            **check,
            "verdict": verdict(check),
            "over": over(check),
            "kind": "blocking" if check["blocking"] else "warning",
        }
        for check in sorted(checks, key=lambda check: ranks.index(check["result"]))
    ]


def _draw() -> None:
    read = attempt(lambda: lake().read("/quality/checks"))
    checks: Checks | None = read["checks"] if isinstance(read, dict) else None
    if isinstance(read, ApiRejectedError):
        st.warning(f"**Check results are unavailable:** {read}", icon=":material/warning:")
    gaps, rejected, quarantined = (attempt(partial(lake().page, path)) for path in GAP_ROUTES)
    _headline(checks, gaps, rejected, quarantined)
    if checks is not None:
        _official(checks)
    _differences()
    if isinstance(read, dict):
        _checks(read["checks"], read["looked_at"])
    left, right = st.columns(2)
    with left:
        _reasons("Rejected frames", "No rejected frames.", rejected, "rejected")
    with right:
        _reasons("Quarantined trades", "No quarantined trades.", quarantined, "quarantined")
    _listed("Gaps", gaps, "gaps", GAP_TABLE, key="gaps", nothing="No gaps between connections.")
    _missing()
    _runs()


def _headline(checks: Checks | None, gaps: Read, *dropped: Read) -> None:
    counts = None if checks is None else Counter(check["result"] for check in checks)
    with st.container(horizontal=True, key="headline"):
        for name, of in HEADLINE.items():
            st.metric(name, UNKNOWN if counts is None else sum(map(counts.__getitem__, of)), width="content")
        running = UNKNOWN if checks is None else sum(check["running"] for check in checks)
        st.metric("Checks running", running, width="content", help="Also counted by their last finished result.")
        for name, page in zip(("Rejected frames", "Quarantined trades"), dropped, strict=True):
            rows = f"{sum(reason['rows'] for reason in page['reasons']):,}" if isinstance(page, dict) else UNKNOWN
            st.metric(name, rows, width="content", help=WINDOW)
        st.metric("Gaps", f"{len(gaps['gaps']):,}" if isinstance(gaps, dict) else UNKNOWN, width="content")


def _official(checks: Checks) -> None:
    """Show the agreement of the bars with official klines."""
    for check in checks:
        if check["check"] != OFFICIAL:
            continue
        boxes = {"passed": st.success, "warned": st.warning, "errored": st.warning, "failed": st.error}
        shown = boxes.get(check["result"], st.info)
        shown(f"**Agreement with official klines**: {agreement(check)}", icon=":material/balance:")


def _differences() -> None:
    """Draw the differences between bars and official klines; nothing without differences."""
    page = attempt(partial(lake().page, "/quality/klines", limit=DIFFERENCES))
    if page is None or (isinstance(page, dict) and not page["differences"]):
        return
    st.subheader("Differences from official klines", anchor=False)
    if isinstance(page, ApiRejectedError):
        problem(page)
        return
    exact_table(page["differences"], DIFFERENCE_TABLE, key="differences", max_rows=ROWS)
    if page["next_cursor"]:
        st.caption(f"Newest {DIFFERENCES:,}; `/quality/klines` of the API has all.")


def _checks(checks: Checks, looked_at: dict[str, int]) -> None:
    st.subheader("Checks", anchor=False)
    exact_table(
        check_rows(checks),
        CHECK_TABLE,
        key="checks",
        max_rows=ROWS,
        wide={"check": 200, "description": 300},
        links={"run_url": RUN_LINK},
    )
    st.caption(
        f"Of each check: the newest {looked_at['evaluations']:,} evaluations, and those of the newest "
        f"{looked_at['partitions']:,} hours or days. If results differ, the row shows the worst partition."
    )


def _listed(title: str, page: Read, rows: str, columns: dict[str, str], *, key: str, nothing: str) -> bool:
    """Draw a table of problems, or the text `nothing` if it has no rows. Return whether it has rows.

    If the table does not exist or cannot be read, show that instead.
    """
    st.subheader(title, anchor=False)
    if page is None:
        st.info(
            "**The table does not exist yet.** `cryptolake bootstrap` creates it.", icon=":material/hourglass_empty:"
        )
    elif isinstance(page, ApiRejectedError):
        problem(page)
    elif not page[rows]:
        st.success(nothing, icon=":material/check:")
    else:
        exact_table(page[rows], columns, key=key, max_rows=ROWS)
        return True
    return False


def _reasons(title: str, nothing: str, page: Read, key: str) -> None:
    if _listed(title, page, "reasons", REASON_TABLE, key=key, nothing=nothing):
        st.caption(WINDOW)


def _missing() -> None:
    """Draw the trades missing from the stream by their ids, including those that were recovered later."""
    page = attempt(partial(lake().page, "/gaps/trades", limit=MISSING))
    shown = _listed("Missing trades", page, "gaps", MISSING_TABLE, key="missing", nothing="No missing trades.")
    if shown and isinstance(page, dict) and page["next_cursor"]:
        st.caption(f"Newest {MISSING:,}; `/gaps/trades` of the API has all.")


def _runs() -> None:
    st.subheader("Runs", anchor=False)
    page = attempt(partial(lake().page, "/quality", limit=RUNS))
    if isinstance(page, ApiRejectedError):
        problem(page)
        return
    if page is None or not page["runs"]:
        st.info("**No Silver or Gold runs yet.**", icon=":material/hourglass_empty:")
        return
    exact_table(page["runs"], RUN_TABLE, key="runs", max_rows=ROWS)
    limit = f"Newest {RUNS:,}; `/quality` of the API has all" if page["next_cursor"] else "Newest first"
    st.caption(f"{limit} · last run finished {when(page['runs'][0]['finished_at'])} UTC")
