"""The Spark Connect server's configuration from the settings."""

from __future__ import annotations

from pathlib import Path

from cryptolake_assets.lake.spark_session import spark_conf
from cryptolake_assets.settings import load_settings


def test_setting_defines_the_number_of_shuffle_partitions(tmp_path: Path) -> None:
    conf = spark_conf(load_settings(home=tmp_path, spark_shuffle_partitions=64))
    assert conf["spark.sql.shuffle.partitions"] == "64"
    assert conf["spark.sql.adaptive.enabled"] == "true"
