"""The generated parts of docs/reliability.md."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from reliability import page
from reliability.results import (
    RESULTS,
    DrillResult,
    FaultResult,
    InterleavingResult,
    OldBugResult,
    SimulationResult,
    append,
    read,
)

RUN: dict[str, Any] = {"at": "2026-01-02T03:04:05+00:00", "commit": "abc1234", "cores": 2}


def fault(part: str, recovered_s: float | None, lasted_s: float = 1.0, load: float = 3.0) -> FaultResult:
    return FaultResult(
        **RUN,
        run="1",
        fault="kill",
        part=part,
        parameters={"load": load},
        lasted_s=lasted_s,
        recovered_s=recovered_s,
    )


@pytest.fixture
def written(tmp_path: Path) -> str:
    """The page of a few results."""
    append(
        SimulationResult(
            **RUN,
            first_seed=1,
            seeds=10,
            simulated_hours=20.0,
            cpu_s=15.0,
            frames=90_000,
            fewest_frames_per_hour=3_700,
            fewest_faults_per_hour=6,
            faults={"cut": 40, "burst": 50},
            states={"repair_during_restart": 3},
            log_digest="00",
        ),
        tmp_path,
    )
    append(
        InterleavingResult(
            **RUN, first_seed=1, seeds=5, cpu_s=1.0, steps=500, commits={"expiry": 3}, reads=70, states={}
        ),
        tmp_path,
    )
    append(
        DrillResult(
            **{**RUN, "violations": ("seed 7: a minute is complete without trade 12",)},
            run="1",
            seed=7,
            scenario="mixed",
            lasted_s=1_800.0,
            quiet_points=6,
            trades_emitted=10_000,
            bars_compared=40,
            bars_complete=38,
            states={},
            load=0.5,
        ),
        tmp_path,
    )
    for seed in (None, 9):  # the newest search counts
        append(
            OldBugResult(
                **RUN, bug="b", description="ids are lost", first_seed=1, found_at_seed=seed, seeds=45, cpu_s=1.0
            ),
            tmp_path,
        )
    for one in (
        fault("kafka", 9.0),
        fault("kafka", 21.0, lasted_s=30.0),
        fault("producer", None),
        fault("api", 99.0, load=12.1),
    ):
        append(one, tmp_path)
    copy = shutil.copy(page.PAGE, tmp_path / "page.md")
    page.rewrite(Path(copy), tmp_path, tmp_path / "recovery.svg")
    return Path(copy).read_text(encoding="utf-8") + (tmp_path / "recovery.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [
        "| simulated hours per CPU minute | 80 |",
        "| burst | 50 |\n| cut | 40 |",
        "| repair during restart | 3 |",
        "| ids are lost | 9 | 45 |",
        "| expiry | 3 |",
        "| of these complete | 38 |",
        "| broken promises | 1 (at `abc1234`) |",
        "| kill | kafka | 2 | 1 to 30 | 2 | 9.0 | 21.0 |  |",
        "| kill | producer | 1 | 1 | **0** |  |  |  |",
        "| kill | api | 1 | 1 | 1 |  |  |  |",
        ">kill kafka</text>",
    ],
)
def test_page_shows_the_results(written: str, line: str) -> None:
    assert line in written


def test_page_is_up_to_date(tmp_path: Path) -> None:
    copy = Path(shutil.copy(page.PAGE, tmp_path / "page.md"))
    page.rewrite(copy, RESULTS, tmp_path / "recovery.svg")
    assert copy.read_text(encoding="utf-8") == page.PAGE.read_text(encoding="utf-8"), "run python -m reliability.page"
    assert (tmp_path / "recovery.svg").read_bytes() == page.PICTURE.read_bytes()


def test_found_faults_name_existing_tests() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    named = [row.rsplit("`", 2)[1] for row in text.splitlines() if row.endswith("` |") and ".py" in row]
    tests = {path.name for path in (page.ROOT / "cryptolake_tests").rglob("test_*.py")}
    missing = [name for name in named if name.partition("::")[0].rpartition("/")[2] not in tests]
    assert not missing


def test_results_accumulate(tmp_path: Path) -> None:
    append(fault("api", 1.0), tmp_path)
    append(fault("api", 2.0), tmp_path)
    assert [one.recovered_s for one in read(FaultResult, tmp_path)] == [1.0, 2.0]


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.95, 4.0), (0.25, 1.0)])
def test_percentile_is_a_measured_value(share: float, expected: float) -> None:
    assert page.percentile([4.0, 1.0, 3.0, 2.0], share) == expected
