"""Invalid archive lines are stored once, from any issue of their file."""

from __future__ import annotations

from dataclasses import replace

from cryptolake_assets.binance.archive_csv import BadLine
from cryptolake_assets.lake.catalog import load_table
from cryptolake_assets.lake.dead_letters import write_rejected_lines
from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import Settings

LINE = BadLine(3, "oops", "1 columns, expected 7")


def reasons(lake: Settings) -> list[str]:
    return sorted(load_table(lake, FUTURES.rejected).scan().to_arrow()["reason"].to_pylist())


def test_line_of_a_later_issue_or_release_is_stored_once(lake: Settings) -> None:
    assert write_rejected_lines(lake, "archive:a", [LINE]) == 1
    for number in (4, 0, 3):
        assert write_rejected_lines(lake, "archive:a", [replace(LINE, number=number)]) == 0
    assert write_rejected_lines(lake, "archive:a", [replace(LINE, reason="expected 7 columns, found 1")]) == 0
    assert reasons(lake) == ["line 3: 1 columns, expected 7"]


def test_other_lines_and_files_are_stored_separately(lake: Settings) -> None:
    write_rejected_lines(lake, "archive:a", [LINE])
    others = [replace(LINE, text="again"), replace(LINE, text="late", reason="the time is out of range", number=0)]
    assert write_rejected_lines(lake, "archive:a", [*others, replace(others[0], number=9), LINE]) == 2
    assert write_rejected_lines(lake, "archive:b", [LINE]) == 1
    assert reasons(lake) == [*["line 3: 1 columns, expected 7"] * 3, "the time is out of range"]
