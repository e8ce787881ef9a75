"""Charts, tables, ranges and check results computed from responses of the API."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from cryptolake_assets.dashboard import drawings, palette
from cryptolake_assets.dashboard.shared import painted
from cryptolake_assets.dashboard.views import quality
from cryptolake_assets.dashboard.views.daily import buckets, funding_days
from cryptolake_assets.dashboard.views.market import first_open_time

DAYS: list[dict[str, Any]] = [
    {"trade_date": "2024-07-19", **dict.fromkeys(drawings.PRICES, "63943.90000000"), "log_return": -1e-10},
    {"trade_date": "2024-07-18", **dict.fromkeys(drawings.PRICES, "0.00000001"), "log_return": None},
]


def test_tooltips_show_every_digit_and_days_run_left_to_right() -> None:
    rows = next(iter(drawings.prices(DAYS, palette.LIGHT).to_dict()["datasets"].values()))
    assert [row["trade_date"] for row in rows] == ["2024-07-18", "2024-07-19"]
    assert [row["close_text"] for row in rows] == ["0.00000001", "63,943.9"]
    (row,) = next(iter(drawings.returns(DAYS[:1], palette.DARK).to_dict()["datasets"].values()))
    assert row["log_return_text"] == "-0.0000000001"
    line = next(iter(drawings.line(DAYS, "log_return", palette.LIGHT).to_dict()["datasets"].values()))
    assert line[0]["log_return_text"] == ""


def test_index_is_drawn_on_its_full_scale_left_to_right() -> None:
    days = [
        {"index_date": f"2024-07-{day}", "value": value, "classification": "Greed"}
        for day, value in ((19, 60), (18, 69))
    ]
    made = drawings.sentiment(days, palette.LIGHT).to_dict()
    rows = next(iter(made["datasets"].values()))
    assert [(row["trade_date"], row["value"]) for row in rows] == [("2024-07-18", 69), ("2024-07-19", 60)]
    assert made["encoding"]["y"]["scale"]["domain"] == [0, 100]


def test_funding_rates_are_summed_exactly_per_utc_day() -> None:
    rates = [
        {"funding_time": f"2024-07-{day}T{hour}:00:00.002000Z", "funding_rate": rate}
        for day, hour, rate in ((19, "08", "0.000000000001"), (19, "00", "0.100000000000"), (18, "16", "-0.0001"))
    ]
    days = funding_days(rates)
    assert days == [
        {"trade_date": "2024-07-19", "funding_rate": "0.100000000001", "fundings": 2},
        {"trade_date": "2024-07-18", "funding_rate": "-0.0001", "fundings": 1},
    ]
    rows = next(iter(drawings.funding(days, palette.LIGHT).to_dict()["datasets"].values()))
    assert [row["funding_rate_text"] for row in rows] == ["-0.0001", "0.100000000001"]


def test_volume_profile_has_a_bar_from_zero_per_bucket() -> None:
    buckets = [{"low": Decimal(100), "high": Decimal(200), "volume": Decimal("0.000000010")}]
    made = drawings.profile(buckets, palette.LIGHT).to_dict()
    assert next(iter(made["datasets"].values()))[0]["volume_text"] == "0.00000001"
    assert made["encoding"]["x2"] == {"datum": 0}


def test_up_and_down_differ_without_red_and_green() -> None:
    for colours in (palette.LIGHT, palette.DARK):
        reds, greens, blues = zip(
            *(tuple(int(text[at : at + 2], 16) for at in (1, 3, 5)) for text in (colours.up, colours.down)), strict=True
        )
        assert abs(blues[0] - blues[1]) > 100, (
            "the colours differ in blue, which red-green color blindness does not affect"
        )
        assert reds[0] < reds[1]
        assert greens
    assert re.fullmatch(r"#[0-9a-f]{6}", palette.both()["dark"]["accent"])


def test_range_starts_with_the_bar_that_contains_its_first_minute() -> None:
    last = datetime(2024, 7, 19, 0, 5, tzinfo=UTC)
    assert first_open_time(last, timedelta(days=1), timedelta(days=1)) == datetime(2024, 7, 18, tzinfo=UTC)
    assert first_open_time(last, timedelta(hours=1), timedelta(hours=4)) == datetime(2024, 7, 18, 20, tzinfo=UTC)
    assert first_open_time(last, timedelta(hours=1), timedelta(minutes=1)) == last - timedelta(hours=1)
    assert first_open_time(last, None, timedelta(minutes=1)) is None


def test_negative_numbers_sort_as_floats_and_show_every_digit() -> None:
    texts = {-0.0123456789012345: "-0.0123456789012345", -1e-10: "-0.0000000001"}
    columns = {"day": ["a", "b", "c"], "log return": [*texts.values(), ""]}
    styler = painted(columns, {"log return": texts})
    assert styler.data["log return"].tolist()[:2] == list(texts)
    html = styler.to_html()
    assert [re.findall(rf'data row{row} col1" >(.*?)<', html) for row in range(3)] == [
        [text] for text in (*texts.values(), "")
    ]


def test_buckets_are_merged_to_the_widest_width() -> None:
    rows = [
        {"bucket_low": Decimal(low), "bucket_width": Decimal(width), "volume_sum": Decimal(volume)}
        for low, width, volume in (("99.9", "0.1", "1.5"), ("99.1", "0.1", "2"), ("100", "1", "0.00000001"))
    ]
    assert buckets(rows) == [
        {"low": Decimal(99), "high": Decimal(100), "volume": Decimal("3.5")},
        {"low": Decimal(100), "high": Decimal(101), "volume": Decimal("0.00000001")},
    ]


def check(result: str, **changes: Any) -> dict[str, Any]:
    """Return a check as in a response of the API."""
    attempts = {"passed": "SUCCEEDED", "warned": "FAILED", "failed": "FAILED", "errored": "EXECUTION_FAILED"}
    return {
        **{"asset": "silver/bars", "check": "no_nulls", "blocking": True, "result": result, "running": False},
        **dict.fromkeys(("status", "severity", "checked_at", "partition", "description", "run_id", "run_url")),
        **{"last_attempt": attempts.get(result), "partitions": None, "counts": {}},
        **changes,
    }


def partitions(unit: str | None = "hour", **counts: int) -> dict[str, Any]:
    evaluated = sum(counts.get(name, 0) for name in ("passed", "warned", "failed"))
    names = ("passed", "warned", "failed", "errored", "skipped", "running")
    return {"unit": unit, "first": "a", "last": "b", "evaluated": evaluated, **dict.fromkeys(names, 0), **counts}


def test_running_check_shows_its_last_result_and_only_failures_are_crossed() -> None:
    assert quality.verdict(check("passed", running=True, last_attempt="IN_PROGRESS")) == "✓ passed · running"
    assert quality.verdict(check("failed", running=True, last_attempt="IN_PROGRESS")) == "✗ failed · running"
    assert quality.verdict(check("never_run", running=True, last_attempt="IN_PROGRESS")) == "◐ running"
    verdicts = {result: quality.verdict(check(result)) for result in quality.VERDICTS}
    assert {result for result, text in verdicts.items() if text.startswith("✗")} == {"failed"}
    assert (verdicts["skipped"], verdicts["never_run"]) == ("○ skipped", "○ not run")
    assert len(set(verdicts.values())) == len(verdicts)
    assert quality.verdict(check("passed", last_attempt="EXECUTION_FAILED")) == "✓ passed · last run failed"


def test_check_shows_its_number_of_partitions() -> None:
    checks = [
        check("passed"),
        check("passed", partitions=partitions(passed=2)),
        check("passed", partitions=partitions("day", passed=1)),
        check("passed", partitions=partitions(None, passed=1_000)),
        check("failed", partitions=partitions(passed=1, failed=1)),
        check("failed", partitions=partitions(warned=2, failed=1)),
        check("errored", partitions=partitions(passed=3, errored=1)),
        check("errored", partitions=partitions(errored=1)),
        check("skipped", partitions=partitions(skipped=1)),
    ]
    assert list(map(quality.over, checks)) == [
        "",
        "2 hours",
        "1 day",
        "1,000 partitions",
        "1 of 2 hours failed",
        "1 of 3 hours failed, 2 of 3 hours warned",
        "3 hours, 1 hour not evaluated",
        "1 hour not evaluated",
        "",
    ]


def test_agreement_is_summed_over_hours_and_names_the_worst() -> None:
    fourteen = {"bars_compared": 14, "bars_agreeing": 14, "failing_rows": 0}
    good = check("passed", counts=fourteen, partitions=partitions(passed=2), description="7 of 7", partition="b")
    assert quality.agreement(good) == "14 of 14 bars, 2 hours"
    assert quality.agreement({**good, "running": True}) == "14 of 14 bars, 2 hours · running"
    bad: dict[str, Any] = {"result": "warned", "partition": "2024-07-18-23:00", "description": "5 of 7 equal"}
    bad |= {"counts": {**fourteen, "bars_agreeing": 12}, "partitions": partitions(passed=1, warned=1)}
    assert quality.agreement({**good, **bad}) == "12 of 14 bars, 1 of 2 hours warned; 2024-07-18-23:00: 5 of 7 equal"
    assert quality.agreement(check("never_run")) == "not run"
    assert quality.agreement(check("never_run", running=True)) == "not run · running"
    old = check("passed", description="7 of 7 complete bars equal", partitions=partitions(passed=1))
    assert quality.agreement(old) == "7 of 7 complete bars equal", "evaluations of earlier releases have no counts"


def test_rows_of_checks_start_with_the_worst_and_link_their_run() -> None:
    link = "http://127.0.0.1:3000/runs/476a12a9-b70e-433c-89ee-b16a1537b519"
    results = ("never_run", "passed", "warned", "skipped", "failed", "errored")
    rows = quality.check_rows([check(result, run_url=link, running=True) for result in results])
    assert [row["result"] for row in rows] == list(quality.VERDICTS)
    assert all(row["running"] and row["run_url"] == link and row["kind"] == "blocking" for row in rows)
    assert re.findall(quality.RUN_LINK, link) == ["476a12a9"]
    assert set(quality.CHECK_TABLE) <= set(rows[0])
