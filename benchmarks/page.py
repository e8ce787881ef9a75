"""Generate the marked result blocks and pictures in docs from the JSON files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, ROOT, reached

PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "scale.md")
IMAGES = ROOT / "docs" / "images"

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 760, 26, 290, 70, 34


def rewrite(pages: Sequence[Path] = PAGES, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Rewrite every part's block and pictures; a part without results keeps its block."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        part = content["part"]
        block = f"<!-- {part}: written by `make bench` -->\n\n{_block(content)}\n<!-- {part}: end -->"
        pattern = rf"<!-- {part}: written by `make bench` -->.*?<!-- {part}: end -->"
        page = next((page for page, text in texts.items() if re.search(pattern, text, re.DOTALL)), None)
        if page is None:
            raise ValueError(f"no result block for part {part} in {', '.join(map(str, pages))}")
        texts[page] = re.sub(pattern, lambda _, block=block: block, texts[page], flags=re.DOTALL)  # type: ignore[misc]
        for name, picture in PICTURES.get(part, {}).items():
            (images / name).write_text(picture(content), encoding="utf-8")
    for page, text in texts.items():
        page.write_text(text, encoding="utf-8")


def _block(content: Mapping[str, Any]) -> str:
    machine = content["machine"]
    loads = content["load"]
    lines = [
        f"Commit `{content['commit']}`, {content['began_at'][:10]}; {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB, {machine['os']}, Python {machine['python']}; load "
        f"{loads['begin'][0]:.1f} at the start and {loads['end'][0]:.1f} at the end; {content['took_s'] / 60:.0f} "
        "minutes.",
        "",
        "| Figure | Measured | Target | Reached |",
        "|---|---:|---:|---|",
    ]
    for figure in content["figures"]:
        result = {True: "yes", False: "**no**", None: ""}[reached(figure["value"], figure["target"])]
        unit = "" if figure["unit"] == "ratio" else f" {figure['unit']}"
        target = figure["target"].replace("<=", "at most").replace(">=", "at least")
        lines.append(f"| `{figure['figure']}` | {figure['value']:g}{unit} | {target} | {result} |")
    for table in TABLES.get(content["part"], ()):
        if rows := table({figure["figure"]: figure["detail"] for figure in content["figures"]}):
            lines += ["", *rows]
    return "\n".join(lines) + "\n"


def _contestants(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = details["rebuild_fresh_vs_best_bare"]["contestants"]
    lines = ["| 20 million trades to one-minute bars | Seconds | CPU seconds | Peak MB |", "|---|---:|---:|---:|"]
    for name, row in sorted(rows.items(), key=lambda item: float(item[1]["seconds"])):
        lines.append(f"| {name} | {row['seconds']:.2f} | {row['cpu_s']:.2f} | {row['peak_mb']:.0f} |")
    return lines


_REFRESH_ROWS = {
    "bronze_rows": "Trades in Bronze",
    "median_s": "Seconds, median",
    "cpu_s": "CPU seconds, median",
    "new_trades": "New trades",
    "windows_touched": "Recomputed bars",
    "bronze_files_read": "Bronze files read",
    "manifests_read": "Manifests read, all tables",
    "bytes_read": "Bytes read",
    "silver_rows_written": "Silver rows written",
    "bronze_files": "Files in Bronze",
    "bronze_manifests": "Manifests of Bronze",
    "silver_rows": "Bars in Silver",
}


def _refreshes(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = details["refresh_100m_vs_1m"]["lakes"]
    names = {"1m": "1 million", "100m": "100 million", "dense": "one dense day"}
    lines = [
        "| Refresh after a minute of new trades | " + " | ".join(names[name] for name in found) + " |",
        "|---|" + "---:|" * len(found),
    ]
    for key, title in _REFRESH_ROWS.items():
        cells = [f"{row[key]:,}" if isinstance(row[key], int) else f"{row[key]:.3f}" for row in found.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _picture(content: Mapping[str, Any]) -> str:
    """Return an SVG bar chart of the contestants by wall time, without Spark."""
    details = {figure["figure"]: figure["detail"] for figure in content["figures"]}
    rows = {
        name: row for name, row in details["rebuild_fresh_vs_best_bare"]["contestants"].items() if "Spark" not in name
    }
    longest = max(float(row["seconds"]) for row in rows.values())
    height = _TOP + _ROW * len(rows) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Seconds from 20 million trades to exact one-minute bars</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="21" fill="#1f2933" font-weight="600">'
        "Seconds from 20 million trades to exact one-minute bars; peak memory</text>",
    ]
    for number, (name, row) in enumerate(sorted(rows.items(), key=lambda item: float(item[1]["seconds"]))):
        y = _TOP + number * _ROW
        width = max(2.0, (_WIDTH - _LEFT - _RIGHT - 60) * float(row["seconds"]) / longest)
        colour = "#0f766e" if name.startswith("CryptoLake") else "#9aa5b1"
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 16}" text-anchor="end" fill="#1f2933">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y + 4}" width="{width:.1f}" height="{_ROW - 9}" rx="2" fill="{colour}"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + 16}" fill="#1f2933">{row["seconds"]:.1f} s, '
            f"{row['peak_mb']:,.0f} MB</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _requests(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = {
        "warm": "API, cached day",
        "bare": "bare route, the same bytes from memory",
        "conditional": "API, `If-None-Match`",
        "bare_empty": "bare route, empty 304",
    }
    lines = ["| A day of one symbol, 8 connections | Requests per second | p50 ms | p99 ms |", "|---|---:|---:|---:|"]
    for figure in ("warm_vs_bare", "conditional_vs_bare"):
        for kind, row in details[figure]["contestants"].items():
            lines.append(f"| {names[kind]} | {row['per_s']:,.0f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} |")
    lines += ["", "| Different days, sequentially | Requests | p50 ms | p99 ms | Peak MB |"]
    lines.append("|---|---:|---:|---:|---:|")
    for kind, title in (("api", "API, first request of each day"), ("per_request", "table and files read per request")):
        row = details["cold_p99_ms"][kind]
        times = f"{row['p50_ms']:.1f} | {row['p99_ms']:.1f}"
        lines.append(f"| {title} | {row['queries']} | {times} | {row['peak_mb']:.0f} |")
    return lines


def _archive_day(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = details["archive_vs_bare"]
    names = {
        "ours": "CryptoLake, from request to commit",
        "bare": "pyarrow, bare, from zip to Parquet file",
    }
    lines = [f"| A day of {found['rows']:,} aggregates | Seconds | CPU seconds | Peak MB |", "|---|---:|---:|---:|"]
    for kind, row in found["contestants"].items():
        lines.append(f"| {names[kind]} | {row['query_s']:.2f} | {row['cpu_s']:.2f} | {row['rss_mb']:.0f} |")
    return lines


def _producers(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if "producer_cpu_s_per_million" not in details:
        return []
    found = details["producer_cpu_s_per_million"]
    names = {
        "default": "CryptoLake with websockets and aiokafka, socket to acknowledgement",
        "fast": "CryptoLake with picows and confluent-kafka, socket to acknowledgement",
        "default, three markets": "the same with websockets and aiokafka, spread over three markets",
        "fast, three markets": "the same with picows and confluent-kafka, spread over three markets",
        "cryptofeed": "cryptofeed, Binance Futures handler and Kafka backend",
        "parse, msgspec": "bare: JSON to JSON by msgspec",
    }
    lines = ["| One process | CPU seconds per million | Frames per second | Peak MB |", "|---|---:|---:|---:|"]
    for kind, row in sorted(found["contestants"].items(), key=lambda item: float(item[1]["cpu_s_per_million"])):
        cells = f"{row['cpu_s_per_million']:.2f} | {row['frames_per_s']:,.0f} | {row['rss_mb']:.0f}"
        lines.append(f"| {names.get(kind, f'bare: {kind}')} | {cells} |")
    lines += ["", "| Steady rate | p50 ms | p99 ms | Share of a core |", "|---|---:|---:|---:|"]
    for figure in ("ack_p99_ms_5k", "ack_p99_ms_20k"):
        row = details[figure]
        title = f"{row['per_s']:,} frames per second, {'picows' if row['io'] == 'fast' else 'websockets'}"
        cells = f"{row['p50_ms']:.1f} | {sorted(row['p99_ms'])[len(row['p99_ms']) // 2]:.1f} | {row['cpu_share']:.2f}"
        lines.append(f"| {title} | {cells} |")
    rates = details["bronze_vs_bare_spark"]["rows_per_s"]
    lines += ["", "| From Kafka, on one Spark server | Rows per second |", "|---|---:|"]
    lines.append(f"| bare query to Parquet files | {rates['bare']:,} |")
    lines.append(f"| CryptoLake to Bronze, until the last trade is committed | {rates['ours']:,} |")
    return lines


def _rebuilds(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        "| Rows of a day | Workers (one core each) | Seconds | Rows per second |",
        "|---:|---:|---:|---:|",
        *(
            f"| {row['rows']:,} | {row['workers']} | {row['seconds']:.2f} | {row['rows_per_s']:,} |"
            for row in details["data_4x_vs_1x"]["rebuilds"]
        ),
    ]


def _soak(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = details["soak_365_vs_2"]
    days = list(next(iter(found["seconds"].values())))
    lines = ["| Step | " + " | ".join(f"ms on day {day}" for day in days) + " | Ratio |", "|---|---:|---:|---:|"]
    for step, seconds in found["seconds"].items():
        cells = " | ".join(f"{seconds[day] * 1000:,.1f}" for day in days)
        lines.append(f"| {step} | {cells} | {found['ratios'][step]:.2f} |")
    return lines


TABLES: dict[str, tuple[Callable[[Mapping[str, Mapping[str, Any]]], list[str]], ...]] = {
    "silver": (_contestants, _refreshes),
    "api": (_requests,),
    "ingest": (_producers, _archive_day),
    "scale": (_rebuilds,),
    "soak": (_soak,),
}
PICTURES: dict[str, dict[str, Callable[[Mapping[str, Any]], str]]] = {"silver": {"silver-benchmark.svg": _picture}}
