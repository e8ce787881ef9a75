"""A cluster of native processes, one per session, and the settings of a platform on it."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cryptolake_assets.platform import lifecycle
from cryptolake_assets.settings import Profile, Settings, get_settings, load_settings
from cryptolake_tests.support import natives
from cryptolake_tests.support.natives import Cluster
from cryptolake_tests.support.platforms import free_ports, stop_spark_session
from cryptolake_tests.support.standalone import spark_cluster

BUCKETS = ("lake", "bronze", "silver", "gold", "ops", "marts", "checkpoints")
WORKERS = 2


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start PostgreSQL, S3, the REST catalog and Spark with two workers, without CryptoLake's parts."""
    with ExitStack() as stack:
        # PostgreSQL's user cannot read pytest's directory or one of root.
        parent = "/tmp" if os.geteuid() == 0 else None
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cryptolake-cluster-", dir=parent)))
        root.chmod(0o755)
        home = root / "home"

        def make_directory(name: str) -> Path:
            directory = root / name
            directory.mkdir()
            return directory

        token = secrets.token_urlsafe(24)
        database = stack.enter_context(natives.postgres(make_directory("postgres"), secrets.token_urlsafe(16)))
        for name in ("catalog", "dagster"):
            database.create(name)
        store = stack.enter_context(natives.s3_store(make_directory("s3"), BUCKETS, secrets.token_urlsafe(24)))
        base = load_settings(home=home)
        catalog = stack.enter_context(natives.rest_catalog(make_directory("catalog"), base, database, store, token))
        spark = stack.enter_context(spark_cluster(make_directory("spark"), WORKERS))
        settings = load_settings(
            home=home,
            **free_ports(),
            profile=Profile.CLUSTER,
            iceberg_rest_uri=catalog,
            iceberg_rest_token=token,
            warehouse="s3://lake/warehouse",
            namespace_location="s3://{namespace}",
            checkpoints="s3://checkpoints/bronze",
            minio_endpoint=store.endpoint,
            minio_root_user=store.access_key,
            minio_root_password=store.secret_key,
            dagster_database=database.uri("dagster"),
            spark_master=spark.url,
            spark_memory_mb=1536,
            replay_speed=16.0,
            bronze_trigger_s=2.0,
            coverage_interval_s=1.0,
        )
        try:
            yield Cluster(spark, database, settings)
        finally:
            stop_spark_session()
            lifecycle.down(settings)


@pytest.fixture(autouse=True)
def settings(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Apply the cluster's settings to this process."""
    for name, value in cluster.settings.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()
