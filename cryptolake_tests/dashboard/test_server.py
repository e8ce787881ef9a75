"""Options of the dashboard's server, its imports and its files."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

from cryptolake_assets import dashboard
from cryptolake_assets.dashboard.__main__ import SCRIPT, options
from cryptolake_assets.settings import load_settings

ROOM = Path(dashboard.__file__).parent
CHARTS_SHA256 = "1bb1ee79f9d4dd17261b53d930f7a8995748276f80e7ba0e24412b5068062f5f"
"""SHA-256 of `dist/lightweight-charts.standalone.production.mjs` in the npm package `lightweight-charts` 5.2.1."""
OTHER_ROOMS = (
    *("api", "binance", "bronze", "captures", "defs", "http", "ingest"),
    *("kafka", "lake", "platform", "producer", "quality", "replay", "transform"),
)


def test_server_listens_on_loopback_without_telemetry_or_error_details() -> None:
    given = options(load_settings())
    assert given["server.address"] == "127.0.0.1"
    assert given["server.headless"] is True
    assert given["browser.gatherUsageStats"] is False
    assert given["client.showErrorDetails"] == "none"
    assert SCRIPT.is_file()


def test_dashboard_imports_no_lake_code() -> None:
    imported: set[str] = set()
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert {"streamlit", "cryptolake_assets.client"} <= imported
    forbidden = ("pyiceberg", "duckdb", "pyspark", *(f"cryptolake_assets.{room}" for room in OTHER_ROOMS))
    assert {name for name in imported if name.startswith(forbidden)} == set()


def test_chart_library_is_unchanged_and_attributed() -> None:
    library = (ROOM / "chart/lightweight-charts.js").read_bytes()
    assert hashlib.sha256(library).hexdigest() == CHARTS_SHA256
    assert "Apache License" in (ROOM / "chart/LICENSE.lightweight-charts").read_text(encoding="utf-8")
    assert "TradingView" in (ROOM / "chart.py").read_text(encoding="utf-8")
    assert "attributionLogo: true" in (ROOM / "chart/chart.js").read_text(encoding="utf-8")


def test_own_files_load_nothing_from_the_internet() -> None:
    for path in (ROOM / "chart/chart.js", ROOM / "chart/chart.css", ROOM / "icon.svg"):
        addresses = re.findall(r"https?://[^\s\"')]+", path.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}
