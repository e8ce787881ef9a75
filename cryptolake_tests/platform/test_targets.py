"""Requested assets and partitions are checked against the graph before a run is launched."""

from __future__ import annotations

import pytest

from cryptolake_assets.errors import ArgumentError
from cryptolake_assets.platform.targets import Partitions, Target, unknown_asset

HOURS = Target(
    "silver/futures_ohlcv_1m",
    True,
    Partitions([f"2025-12-31-{hour:02}:00" for hour in range(24)], "%Y-%m-%d-%H:%M"),
)
DAYS = Target("gold/spot_daily_stats", True, Partitions(["2025-12-30", "2025-12-31"], "%Y-%m-%d"))
PLAIN = Target("maintenance/compaction", True, None)
EXTERNAL = Target("silver/external", False, HOURS.partitions)


@pytest.mark.parametrize(("target", "partition"), [(HOURS, "2025-12-31-23:00"), (DAYS, "2025-12-30"), (PLAIN, None)])
def test_existing_partition_is_accepted(target: Target, partition: str | None) -> None:
    target.check(partition)


@pytest.mark.parametrize(
    ("target", "partition", "cause"),
    [
        (HOURS, None, "silver/futures_ohlcv_1m requires a partition"),
        (HOURS, "2025-12-31", "2025-12-31 is not in the format YYYY-MM-DD-HH:MM"),
        (HOURS, "2025-12-31-7:00", "2025-12-31-7:00 is not in the format YYYY-MM-DD-HH:MM"),
        (HOURS, "", "an empty value is not in the format YYYY-MM-DD-HH:MM"),
        (HOURS, "2025-12-31-07:30", "2025-12-31-07:30 is within a partition"),
        (HOURS, "2025-12-30-23:00", "2025-12-30-23:00 is before the first partition"),
        (HOURS, "2026-01-01-00:00", "2026-01-01-00:00 is after the last partition"),
        (DAYS, "2025-12-31-00:00", "2025-12-31-00:00 is not in the format YYYY-MM-DD"),
        (DAYS, "2025-13-01", "2025-13-01 is not in the format YYYY-MM-DD"),
        (DAYS, "2034-01-01", "2034-01-01 is after the last partition"),
        (DAYS, "币安人生", "币安人生 is not in the format YYYY-MM-DD"),
    ],
)
def test_other_partition_is_rejected_with_the_valid_range(target: Target, partition: str | None, cause: str) -> None:
    with pytest.raises(ArgumentError) as error:
        target.check(partition)
    assert str(error.value).startswith("argument --partition: ")
    assert cause in str(error.value)
    assert target.partitions is not None
    assert f"from {target.partitions.keys[0]} to {target.partitions.keys[-1]}" in str(error.value)


def test_asset_that_cannot_be_materialized_is_named() -> None:
    with pytest.raises(ArgumentError, match="argument --partition: maintenance/compaction has no partitions"):
        PLAIN.check("2025-12-31")
    with pytest.raises(ArgumentError, match="argument asset: silver/external cannot be materialized"):
        EXTERNAL.check("2025-12-31-07:00")
    with pytest.raises(ArgumentError, match="It has no partitions yet"):
        Target("silver/a", True, Partitions([], "%Y-%m-%d")).check("2025-12-31")


def test_unknown_asset_is_reported_with_the_nearest_names_or_all() -> None:
    known = [HOURS.name, DAYS.name, PLAIN.name]
    near, far = unknown_asset("gold/spot_daily_stat", known), unknown_asset("zookeeper", known)
    assert str(near) == "argument asset: no asset is called gold/spot_daily_stat. Did you mean gold/spot_daily_stats?"
    assert str(far).endswith(f"Assets: {', '.join(sorted(known))}.")
