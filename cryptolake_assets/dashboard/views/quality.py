"""Quality: what the checks said last, what was refused or dropped and why, gaps, and what each run read and kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import streamlit as st

from cryptolake_assets.dashboard.shared import exact_table, lake, patiently, refresh_s, when
from cryptolake_assets.errors import ApiRefusedError

Checks = list[dict[str, Any]]

PASSED, WARNED, FAILED, PENDING = "✓ passed", "▲ warns", "✗ failed", "○ not run"
VERDICTS = (FAILED, WARNED, PASSED, PENDING)
"""Worst first."""
OFFICIAL = "official_klines"
RUNS = 200
DIFFERENCES = 500
REFRESH_FACTOR = 5
"""Checks move with runs, not with trades: this page looks that much less often."""
CHECK_TABLE = {
    "verdict": "result",
    "asset": "asset",
    "check": "check",
    "partition": "partition",
    "description": "what it saw",
    "kind": "kind",
    "checked_at": "when (UTC)",
}
REASON_TABLE = {
    "reason": "reason",
    "symbol": "symbol",
    "rows": "rows",
    "first_at": "first (UTC)",
    "last_at": "last (UTC)",
}
DIFFERENCE_TABLE = {
    "symbol": "symbol",
    "window_start": "open time (UTC)",
    "field": "field",
    "ours": "ours",
    "official": "official",
    "tolerated": "tolerated",
}
GAP_TABLE = {"symbol": "symbol", "stream": "stream", "gap_from": "from (UTC)", "gap_to": "to (UTC)"}
RUN_TABLE = {
    "finished_at": "finished (UTC)",
    "asset": "asset",
    "partition": "partition",
    "engine": "engine",
    "passed": "published",
    "rows_in": "rows read",
    "rows_valid": "kept",
    "rows_dropped": "dropped",
    "rows_duplicate": "repeats",
    "rows_written": "written",
    "duration_ms": "ms",
    "snapshot": "snapshot",
}


def render() -> None:
    st.fragment(lambda: patiently(_draw), run_every=REFRESH_FACTOR * refresh_s())()


def verdict(check: dict[str, Any]) -> str:
    """One word of a check's last result."""
    if check["status"] is None:
        return PENDING
    if check["status"] == "SUCCEEDED":
        return PASSED
    return WARNED if check["severity"] == "WARN" else FAILED


def _draw() -> None:
    try:
        checks: Checks | None = lake().read("/quality/checks")["checks"]
    except ApiRefusedError as error:
        checks = None
        st.warning(f"**The checks' results cannot be had:** {error}", icon=":material/warning:")
    gaps = lake().page("/gaps")
    rejected, quarantined = lake().page("/quality/rejected"), lake().page("/quality/quarantined")
    _headline(checks or [], gaps, rejected, quarantined)
    if checks is not None:
        _official(checks)
    _differences()
    if checks is not None:
        _checks(checks)
    left, right = st.columns(2)
    with left:
        _reasons("Refused at the producer", "No frame was refused.", rejected, "rejected")
    with right:
        _reasons("Quarantined in Silver", "No trade broke a rule.", quarantined, "quarantined")
    _gaps(gaps)
    _runs()


def _headline(checks: Checks, gaps: dict[str, Any] | None, *dropped: dict[str, Any] | None) -> None:
    counts = Counter(map(verdict, checks))
    with st.container(horizontal=True, key="headline"):
        st.metric("Checks passed", counts[PASSED], width="content")
        st.metric("Warn", counts[WARNED], width="content")
        st.metric("Failed", counts[FAILED], width="content")
        for name, page in zip(("Frames refused", "Trades quarantined"), dropped, strict=True):
            rows = sum(reason["rows"] for reason in (page or {"reasons": []})["reasons"])
            st.metric(name, f"{rows:,}", width="content")
        st.metric("Gaps open", len((gaps or {"gaps": []})["gaps"]), width="content")


def _official(checks: Checks) -> None:
    """Whether the bars agree with the exchange's own."""
    for check in checks:
        if check["check"] != OFFICIAL:
            continue
        shown = {PASSED: st.success, WARNED: st.warning, FAILED: st.error, PENDING: st.info}[verdict(check)]
        said = check["description"] or "not compared yet"
        partition = f" ({check['partition']})" if check["partition"] else ""
        shown(f"**Agreement with official klines**{partition}: {said}", icon=":material/balance:")


def _differences() -> None:
    """Where bars and the exchange's own differ; nothing where they do not."""
    page = lake().page("/quality/klines", limit=DIFFERENCES)
    if page is None or not page["differences"]:
        return
    st.subheader("Differences from official klines", anchor=False)
    exact_table(page["differences"], DIFFERENCE_TABLE, key="differences", most_rows=10)


def _checks(checks: Checks) -> None:
    st.subheader("Checks", anchor=False)
    rows = [
        {**check, "verdict": verdict(check), "kind": "blocking" if check["blocking"] else "warning"} for check in checks
    ]
    exact_table(
        sorted(rows, key=lambda row: VERDICTS.index(row["verdict"])),
        CHECK_TABLE,
        key="checks",
        most_rows=12,
        wide="description",
    )


def _reasons(title: str, nothing: str, page: dict[str, Any] | None, key: str) -> None:
    st.subheader(title, anchor=False)
    if page is None or not page["reasons"]:
        st.success(nothing, icon=":material/check:")
        return
    exact_table(page["reasons"], REASON_TABLE, key=key)


def _gaps(page: dict[str, Any] | None) -> None:
    st.subheader("Gaps", anchor=False)
    if page is None or not page["gaps"]:
        st.success("No gap is open between two connections.", icon=":material/check:")
        return
    exact_table(page["gaps"], GAP_TABLE, key="gaps")


def _runs() -> None:
    st.subheader("Runs", anchor=False)
    page = lake().page("/quality", limit=RUNS)
    if page is None or not page["runs"]:
        st.info("No run of Silver or Gold yet.", icon=":material/hourglass_empty:")
        return
    exact_table(page["runs"], RUN_TABLE, key="runs", most_rows=12)
    st.caption(f"Newest first; the last one ended {when(page['runs'][0]['finished_at'])} UTC")
