"""PostgreSQL as a catalog by JDBC, tokens of a REST catalog, renamed tables, and errors of catalogs that reject us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from pydantic import SecretStr

from cryptolake_assets.errors import CatalogUnreachableError
from cryptolake_assets.lake.bootstrap import bootstrap
from cryptolake_assets.lake.catalog import get_catalog, load_table
from cryptolake_assets.lake.spark_session import connect
from cryptolake_assets.lake.spot_home import FAMILY_PROPERTY
from cryptolake_assets.model.family_tables import FAMILY_TABLES, FUTURES
from cryptolake_assets.model.markets import Family
from cryptolake_assets.platform import lifecycle
from cryptolake_assets.platform.parts import SPARK
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.bronze import append, trade
from cryptolake_tests.support.commands import run_cryptolake
from cryptolake_tests.support.natives import Cluster, Store, rest_catalog
from cryptolake_tests.support.platforms import free_ports, stop_spark_session
from cryptolake_tests.support.servers import free_port
from cryptolake_tests.support.token_server import TokenServer, serving

HOUR = datetime(2024, 7, 19, tzinfo=UTC)


@pytest.fixture
def on_postgresql(cluster: Cluster, tmp_path: Path) -> Iterator[Settings]:
    """Start a separate Spark on a lake with its catalog in PostgreSQL and its files in the store."""
    cluster.database.create("lake")
    # The environment has the settings of the cluster's store.
    settings = load_settings(
        home=tmp_path,
        **free_ports(),
        iceberg_rest_uri="",
        namespace_location="",
        catalog_uri=cluster.database.uri("lake"),
        warehouse="s3://lake/by-jdbc",
        spark_master="local[2]",
        spark_memory_mb=1024,
    )
    stop_spark_session()
    try:
        lifecycle.up(settings, [SPARK])
        yield settings
    finally:
        stop_spark_session()
        lifecycle.down(settings)


def test_pyiceberg_and_spark_share_a_catalog_in_postgresql(on_postgresql: Settings) -> None:
    session, catalog = connect(on_postgresql), get_catalog(on_postgresql)
    assert ("silver", "futures_ohlcv_1m") in catalog.list_tables("silver")
    session.sql("CREATE TABLE cryptolake.ops.shared (number BIGINT) USING iceberg")
    session.sql("INSERT INTO cryptolake.ops.shared VALUES (1), (2)")
    table = catalog.load_table("ops.shared")
    assert table.location().startswith("s3://lake/by-jdbc/")
    assert sorted(table.scan().to_arrow()["number"].to_pylist()) == [1, 2]
    table.append(pa.table({"number": pa.array([3], pa.int64())}))
    ((total,),) = session.sql("SELECT sum(number) FROM cryptolake.ops.shared").collect()
    assert total == 6


@pytest.fixture(params=["postgresql", "rest"])
def earlier_spot_lake(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Settings]:
    """A Spot lake of an earlier release, with its files in the store: its tables are named after futures."""
    own, database = cluster.settings, f"spot_{request.param}"
    cluster.database.create(database)
    with ExitStack() as stack:
        options: dict[str, Any] = {"iceberg_rest_uri": "", "catalog_uri": cluster.database.uri(database)}
        if request.param == "rest":
            token, port = "a-token-of-this-test", urlsplit(own.minio_endpoint).port or 0
            store = Store(port, own.minio_root_user, own.minio_root_password.get_secret_value())
            uri = stack.enter_context(rest_catalog(tmp_path, own, cluster.database, store, token, database))
            options = {"iceberg_rest_uri": uri, "iceberg_rest_token": token}
        settings = load_settings(
            home=tmp_path, market="spot", namespace_location=f"s3://lake/{database}/{{namespace}}", **options
        )
        bootstrap(settings)
        for spec in FAMILY_TABLES[Family.SPOT]:
            get_catalog(settings).drop_table(spec.identifier)
        append(settings.of_family(Family.FUTURES), [trade(HOUR, 1)])
        with load_table(settings, FUTURES.trades).transaction() as transaction:
            transaction.set_properties({FAMILY_PROPERTY: "spot"})
        yield settings


def test_spot_tables_are_renamed_in_every_catalog(earlier_spot_lake: Settings) -> None:
    actions = bootstrap(earlier_spot_lake)
    assert len([action for action in actions if action.startswith("renamed")]) == len(list(FUTURES))
    spot, futures = (load_table(earlier_spot_lake, FAMILY_TABLES[family].trades) for family in reversed(Family))
    assert spot.location().endswith("/bronze/futures_trades")
    assert futures.location() == f"{spot.location()}_2"
    append(earlier_spot_lake, [trade(HOUR, 2)])
    append(earlier_spot_lake.of_family(Family.FUTURES), [trade(HOUR, 3)])
    ids = [table.refresh().scan().to_arrow()["trade_id"].to_pylist() for table in (spot, futures)]
    assert [sorted(of_table) for of_table in ids] == [[1, 2], [3]]
    assert bootstrap(earlier_spot_lake) == []


@pytest.fixture
def by_credential(cluster: Cluster, tmp_path: Path) -> Iterator[Settings]:
    """Return settings of the cluster's lake with a credential that a token server exchanges for a token."""
    server = TokenServer(subject="lake", scope="catalog", token=cluster.settings.iceberg_rest_token.get_secret_value())
    with serving(server):
        yield load_settings(
            home=tmp_path,
            **free_ports(),
            iceberg_rest_token="",
            iceberg_rest_credential=f"{server.client_id}:{server.client_secret}",
            iceberg_rest_oauth2_uri=server.token_url,
            iceberg_rest_scope=server.scope,
            spark_master="local[1]",
            spark_memory_mb=1024,
        )


def test_pyiceberg_and_spark_exchange_a_credential_for_a_token(by_credential: Settings) -> None:
    stop_spark_session()
    try:
        lifecycle.up(by_credential, [SPARK])
        session, catalog = connect(by_credential), get_catalog(by_credential)
        assert ("silver", "futures_ohlcv_1m") in catalog.list_tables("silver")
        session.sql("CREATE TABLE cryptolake.ops.by_credential (number BIGINT) USING iceberg")
        session.sql("INSERT INTO cryptolake.ops.by_credential VALUES (1), (2)")
        assert sorted(catalog.load_table("ops.by_credential").scan().to_arrow()["number"].to_pylist()) == [1, 2]
        catalog.drop_table("ops.by_credential")
    finally:
        stop_spark_session()
        lifecycle.down(by_credential)


def test_rejected_credential_is_reported_with_the_next_step(by_credential: Settings) -> None:
    wrong = by_credential.model_copy(update={"iceberg_rest_credential": SecretStr("lake-client:another-word-77")})
    with pytest.raises(CatalogUnreachableError, match=r"rejected the request.*ICEBERG_REST_CREDENTIAL") as error:
        get_catalog(wrong)
    assert "another-word-77" not in str(error.value)


def test_wrong_token_is_reported_with_the_next_step(cluster: Cluster) -> None:
    wrong = cluster.settings.model_copy(update={"iceberg_rest_token": SecretStr("another")})
    result = run_cryptolake(wrong, "bootstrap", timeout_s=120)
    assert result.returncode != 0
    assert "rejected the request" in result.stderr
    assert "ICEBERG_REST_TOKEN" in result.stderr
    assert "Traceback" not in result.stderr


def test_unreachable_postgresql_is_reported_with_the_next_step(tmp_path: Path) -> None:
    """Not a unit test, because it needs the driver of the extra `cluster`."""
    address = f"127.0.0.1:{free_port()}/lake"
    uri = SecretStr(f"postgresql://somebody:{'hidden'}@{address}")
    with pytest.raises(CatalogUnreachableError, match=r"cannot be used.*CRYPTOLAKE_CATALOG_URI") as error:
        get_catalog(load_settings(home=tmp_path, iceberg_rest_uri="", catalog_uri=uri))
    assert address in str(error.value)
    assert "hidden" not in str(error.value)
