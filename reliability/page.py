"""Generate the blocks and the picture of docs/reliability.md from the result files and the list of found faults."""

from __future__ import annotations

import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from reliability.results import (
    RESULTS,
    DrillResult,
    FaultResult,
    InterleavingResult,
    OldBugResult,
    Result,
    SimulationResult,
    append,
    read,
)

ROOT: Final = RESULTS.parent.parent
PAGE: Final = ROOT / "docs" / "reliability.md"
PICTURE: Final = ROOT / "docs" / "images" / "recovery.svg"
FOUND: Final = ROOT / "reliability" / "found.toml"
BUSY_LOAD_PER_CORE: Final = 6.0  # 1-minute load average; a platform that recovers has up to two thirds of it
LIMIT_S: Final = 60.0  # a killed part must work again after this long

Faults = Mapping[tuple[str, str], Sequence[FaultResult]]  # by fault and part


def record(result: Result, directory: Path = RESULTS) -> None:
    """Append a result; show it on the page if it is in the project's own result files."""
    append(result, directory)
    if directory.resolve() == RESULTS:
        rewrite()


def rewrite(page: Path = PAGE, results: Path = RESULTS, picture: Path = PICTURE) -> None:
    """Rewrite every block and the picture; a block without results says so."""
    text = page.read_text(encoding="utf-8")
    for name, block in BLOCKS.items():
        lines = block(results) or ["No results yet."]
        pattern = rf"(<!-- {name}: generated -->\n).*?(<!-- {name}: end -->)"
        text, count = re.subn(pattern, lambda match, lines=lines: _between(match, lines), text, flags=re.DOTALL)  # type: ignore[misc]
        if not count:
            raise ValueError(f"reliability: {page.name} has no block {name}. Add its two marks.")
    page.write_text(text, encoding="utf-8")
    picture.write_text(_picture(_by_fault(results)), encoding="utf-8")


def _between(match: re.Match[str], lines: Sequence[str]) -> str:
    return "\n".join([match[1], *lines, "", match[2]])


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


def _simulation(results: Path) -> list[str]:
    found = list(read(SimulationResult, results))
    if not found:
        return []
    hours, cpu_s = sum(result.simulated_hours for result in found), sum(result.cpu_s for result in found)
    newest = found[-1]
    rows = {
        "simulated hours": f"{hours:,.0f}",
        "seeds": f"{sum(result.seeds for result in found):,}",
        "simulated hours per CPU minute": f"{hours / cpu_s * 60:,.0f}",
        "the same, newest run": f"{newest.simulated_hours / newest.cpu_s * 60:,.0f} (commit `{newest.commit}`)",
        "frames": f"{sum(result.frames for result in found):,}",
        "frames per simulated hour, at least": f"{min(result.fewest_frames_per_hour for result in found):,}",
        "faults per simulated hour, at least": f"{min(result.fewest_faults_per_hour for result in found):,}",
        "broken promises": _violations(found),
    }
    return [
        *_table(("all runs", ""), rows.items()),
        "",
        *_counts("fault", "times", (result.faults for result in found)),
        "",
        *_counts("state reached", "seeds", (result.states for result in found)),
    ]


def _old_bugs(results: Path) -> list[str]:
    newest = {result.bug: result for result in read(OldBugResult, results)}
    rows = [
        f"| {bug.description} | {'**none**' if bug.found_at_seed is None else bug.found_at_seed} | {bug.seeds} |"
        for bug in newest.values()
    ]
    return ["| old bug, put back | found at seed | seeds tried |", "|---|---:|---:|", *rows] if rows else []


def _interleaving(results: Path) -> list[str]:
    found = list(read(InterleavingResult, results))
    if not found:
        return []
    rows = {
        "seeds": f"{sum(result.seeds for result in found):,}",
        "steps": f"{sum(result.steps for result in found):,}",
        "reads": f"{sum(result.reads for result in found):,}",
        "broken promises": _violations(found),
    }
    return [
        *_table(("all runs", ""), rows.items()),
        "",
        *_counts("commits of", "number", (result.commits for result in found)),
        "",
        *_counts("state reached", "seeds", (result.states for result in found)),
    ]


def _drills(results: Path) -> list[str]:
    runs = list(read(DrillResult, results))
    if not runs:
        return []
    rows = {
        "runs": f"{len(runs):,}",
        "hours": f"{sum(run.lasted_s for run in runs) / 3_600:.1f}",
        "quiet points": f"{sum(run.quiet_points for run in runs):,}",
        "trades compared": f"{sum(run.trades_emitted for run in runs):,}",
        "bars compared": f"{sum(run.bars_compared for run in runs):,}",
        "of these complete": f"{sum(run.bars_complete for run in runs):,}",
        "broken promises": _violations(runs),
    }
    return [
        *_table(("all runs", ""), rows.items()),
        "",
        *_counts("state reached", "times", (run.states for run in runs)),
    ]


def _faults(results: Path) -> list[str]:
    lines = [
        "| fault | part | times | lasted, s | recovered | p50, s | p95, s | beside others p95, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    by_fault = _by_fault(results)
    for (fault, part), found in by_fault.items():
        alone_s, overlapped_s = _measured(found, overlapped=False), _measured(found, overlapped=True)
        figures = (alone_s, 0.5), (alone_s, 0.95), (overlapped_s, 0.95)
        shown = [f"{percentile(times_s, share):.1f}" if times_s else "" for times_s, share in figures]
        lasted = sorted({round(min(one.lasted_s for one in found)), round(max(one.lasted_s for one in found))})
        again = sum(one.recovered_s is not None for one in found)
        recovered = str(again) if again == len(found) else f"**{again}**"
        cells = fault.replace("_", " "), part, str(len(found)), " to ".join(map(str, lasted)), recovered, *shown
        lines.append(f"| {' | '.join(cells)} |")
    return lines if by_fault else []


def _found(_: Path) -> list[str]:
    faults = tomllib.loads(FOUND.read_text(encoding="utf-8")).get("fault", [])
    rows = [f"| {one['by']} | {one['what']} | {one['now']} | `{one['test']}` |" for one in faults]
    return ["| found by | fault of the platform | now | test |", "|---|---|---|---|", *rows] if rows else []


BLOCKS: Final[dict[str, Callable[[Path], list[str]]]] = {
    "simulation": _simulation,
    "old-bugs": _old_bugs,
    "interleaving": _interleaving,
    "drills": _drills,
    "faults": _faults,
    "found": _found,
}


def _violations(found: Iterable[Result]) -> str:
    """Return the number of violations, with the commits at which they were seen."""
    broken = [result for result in found if result.violations]
    if not broken:
        return "0"
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(result.commit for result in broken))
    return f"{sum(len(result.violations) for result in broken)} (at {commits})"


def _table(head: Sequence[str], rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]


def _counts(name: str, unit: str, counts: Iterable[Mapping[str, int]]) -> list[str]:
    """Return a table of the summed counts, the largest first."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return _table((name, unit), [(key.replace("_", " "), f"{number:,}") for key, number in ordered])


def _measured(found: Iterable[FaultResult], *, overlapped: bool) -> list[float]:
    """Return the recovery times of the faults that began while other programs left the cores to the platform.

    `overlapped`: of those that other faults overlapped, else of the others. Times before a mend that shortened them
    are left out.
    """
    return [
        one.recovered_s
        for one in found
        if one.recovered_s is not None
        and float(one.parameters.get("load", 0)) <= BUSY_LOAD_PER_CORE * one.cores
        and ("overlaps" in one.parameters) is overlapped
        and "mended" not in one.parameters
    ]


def _by_fault(results: Path) -> dict[tuple[str, str], list[FaultResult]]:
    found: defaultdict[tuple[str, str], list[FaultResult]] = defaultdict(list)
    for result in read(FaultResult, results):
        found[result.fault, result.part].append(result)
    return dict(sorted(found.items()))


_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 760, 22, 230, 40, 52


def _picture(by_fault: Faults) -> str:
    """Return an SVG of the recovery times: a dot per fault, a bar from the shortest to the longest of each row."""
    rows = {
        f"{fault.replace('_', ' ')} {part}".strip(): _measured(found, overlapped=False)
        for (fault, part), found in by_fault.items()
    }
    longest = max([LIMIT_S, *(time_s for times_s in rows.values() for time_s in times_s)])
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    height = _TOP + _ROW * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Seconds from the end of a fault until the platform works again</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="21" fill="#1f2933" font-weight="600">'
        "Seconds from the end of a fault until the platform works again</text>",
    ]
    for seconds in range(0, int(longest) + 1, 30 if longest <= 300 else 120):
        x = _LEFT + seconds * scale
        colour = "#b91c1c" if seconds == LIMIT_S else "#e4e7eb"
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{height - 8}" stroke="{colour}"/>',
            f'<text x="{x:.1f}" y="{_TOP - 11}" text-anchor="middle" fill="#616e7c">{seconds}</text>',
        ]
    for number, (name, times_s) in enumerate(rows.items()):
        y = _TOP + number * _ROW + 9
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end" fill="#1f2933">{escape(name)}</text>')
        if times_s:
            ends = " ".join(
                f'{end}="{_LEFT + value * scale:.1f}"'
                for end, value in zip(("x1", "x2"), (min(times_s), max(times_s)), strict=True)
            )
            parts.append(f'<line {ends} y1="{y}" y2="{y}" stroke="#9aa5b1" stroke-width="2"/>')
        parts += [
            f'<circle cx="{_LEFT + time_s * scale:.1f}" cy="{y}" r="4" fill="#0f766e" fill-opacity="0.6"/>'
            for time_s in times_s
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    rewrite()
