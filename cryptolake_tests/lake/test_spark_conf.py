"""What the Spark Connect server is told of the settings."""

from __future__ import annotations

from pathlib import Path

from cryptolake_assets.lake.spark_session import spark_conf
from cryptolake_assets.settings import load_settings


def test_an_aggregation_has_as_many_tasks_as_the_setting_says(tmp_path: Path) -> None:
    conf = spark_conf(load_settings(home=tmp_path, spark_shuffle_partitions=64))
    assert conf["spark.sql.shuffle.partitions"] == "64"
    assert conf["spark.sql.adaptive.enabled"] == "true"
