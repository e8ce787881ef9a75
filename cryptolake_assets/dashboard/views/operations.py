"""Operations page: parts and their lag, assets and their freshness, tables, and links to Dagster's pages."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import streamlit as st

from cryptolake_assets.dashboard.shared import (
    UNKNOWN,
    ago,
    attempt,
    exact_table,
    lake,
    problem,
    refresh_s,
    when,
    with_error_box,
)
from cryptolake_assets.errors import ApiRejectedError

STATES = {
    "running": "● running",
    "external": "● external",
    "starting": "◐ starting",
    "stopped": "○ stopped",
    "unseen": "○ not seen",
}
# By Dagster's names. `UNKNOWN`: the asset was never materialized; `NOT_APPLICABLE`: it has no freshness policy.
FRESHNESS = {
    "HEALTHY": "✓ fresh",
    "WARNING": "▲ late",
    "DEGRADED": "✗ stale",
    "UNKNOWN": "○ never materialized",
    "NOT_APPLICABLE": "no policy",
}
PART_TABLE = {
    "state": "State",
    "name": "Part",
    "lag": "Lag (records)",
    "detail": "Progress",
    "port": "Port",
    "uptime": "Uptime",
}
TABLE_TABLE = {
    "table": "Table",
    "rows": "Rows",
    "data_files": "Data files",
    "size": "Size (MiB)",
    "committed": "Last commit (UTC)",
}
MEBIBYTE = 1024 * 1024


def render() -> None:
    st.fragment(lambda: with_error_box(_draw), run_every=refresh_s())()


def _draw() -> None:
    health = lake().health()
    read = attempt(lambda: lake().read("/operations/parts"))
    parts: list[dict[str, Any]] = read["parts"] if isinstance(read, dict) else []
    _headline(health, parts)
    st.subheader("Parts", anchor=False)
    if isinstance(read, dict):
        exact_table([_part(part) for part in parts], PART_TABLE, key="parts", wide={"detail": "large"})
    else:
        problem(read)
    _assets()
    _tables()


def _headline(health: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    down = [item for item in health.get("dependencies", ()) if item["state"] != "ok"]
    if down:
        message = "; ".join(f"**{item['name']}**: {item['detail']}" for item in down)
        shown = st.error if health["status"] == "down" else st.warning
        shown(f"{message}. See `cryptolake status` and `cryptolake logs <part>`.", icon=":material/warning:")
    else:
        st.success("All dependencies are up.", icon=":material/check:")
    running = sum(part["state"] in ("running", "external") for part in parts)
    by_name = {part["name"]: part for part in parts}
    with st.container(horizontal=True, key="headline"):
        st.metric("Parts running", f"{running} of {len(parts)}" if parts else UNKNOWN, width="content")
        for name, title in (("bronze", "Bronze lag (records)"), ("producer", "Producer lag (records)")):
            lag = by_name.get(name, {}).get("lag")
            st.metric(title, UNKNOWN if lag is None else f"{lag:,}", width="content", help="Records not processed yet")


def _part(part: dict[str, Any]) -> dict[str, Any]:
    state = STATES.get(part["state"], f"✗ {part['state']}")
    seconds = part["uptime_s"]
    return {**part, "state": state, "uptime": "" if seconds is None else _duration(int(seconds))}


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _assets() -> None:
    st.subheader("Assets", anchor=False)
    found = attempt(lambda: lake().read("/operations/assets"))
    if isinstance(found, ApiRejectedError):
        st.warning(f"**Dagster is unavailable:** {found}", icon=":material/warning:")
        return
    url = found["dagster_url"]
    with st.container(horizontal=True, key="dagster"):
        for title, path in (
            ("Dagster", ""),
            ("Asset graph", "/asset-groups"),
            ("Runs", "/runs"),
            ("Automation", "/automation"),
        ):
            st.link_button(title, f"{url}{path}", icon=":material/open_in_new:")
    rows = [
        {
            "asset": f"{url}/assets/{quote(item['asset'])}",
            "freshness": FRESHNESS.get(item["freshness"] or "", UNKNOWN),
            "last": when(item["last_materialized_at"]),
            "ago": ago(item["last_materialized_at"]) if item["last_materialized_at"] else "never",
            "partition": item["last_partition"] or "",
        }
        for item in found["assets"]
    ]
    with st.container(key="assets"):
        st.dataframe(
            rows,
            hide_index=True,
            column_config={
                "asset": st.column_config.LinkColumn("Asset (opens Dagster)", display_text=r"/assets/(.+)$"),
                "freshness": "Freshness",
                "last": "Last materialized (UTC)",
                "ago": "Age",
                "partition": "Partition",
            },
        )


def _tables() -> None:
    st.subheader("Tables", anchor=False)
    read = attempt(lambda: lake().read("/catalog"))
    if not isinstance(read, dict):
        problem(read)
        return
    rows = [
        {
            **table,
            "size": f"{table['size_bytes'] / MEBIBYTE:.2f}",
            "committed": when(table["snapshots"][0]["committed_at"]) if table["snapshots"] else "",
        }
        for table in read["tables"]
    ]
    exact_table(rows, TABLE_TABLE, key="tables")
