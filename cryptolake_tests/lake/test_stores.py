"""The same settings configure PyIceberg, Spark and Hadoop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cryptolake_assets.lake.stores import catalog_properties, hadoop_location, spark_catalog
from cryptolake_assets.settings import Settings, load_settings

SPARK = "spark.sql.catalog.cryptolake"
S3: dict[str, Any] = {
    "warehouse": "s3://lake/wh",
    "minio_endpoint": "http://127.0.0.1:9000",
    "minio_root_user": "user",
    "minio_root_password": SecretStr("secret"),
}


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return load_settings(home=tmp_path, **changes)


def test_default_is_sqlite_on_the_local_disk(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    assert catalog_properties(chosen) == {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/catalog/catalog.db?timeout=30",
        "warehouse": f"file://{tmp_path}/warehouse",
    }
    conf = spark_catalog(chosen)
    assert conf[f"{SPARK}.uri"] == f"jdbc:sqlite:{tmp_path}/catalog/catalog.db?busy_timeout=30000&journal_mode=WAL"
    assert conf[f"{SPARK}.warehouse"] == f"file://{tmp_path}/warehouse"
    assert not [name for name in conf if "s3" in name]


def test_postgresql_uri_configures_pyiceberg_and_spark(tmp_path: Path) -> None:
    address = f"lake:{'p%40ss%2F'}@db.example:5432/iceberg?sslmode=require"
    chosen = settings(tmp_path, catalog_uri=SecretStr(f"postgresql://{address}"))
    assert catalog_properties(chosen)["uri"] == f"postgresql+psycopg2://{address}"
    conf = spark_catalog(chosen)
    assert conf[f"{SPARK}.type"] == "jdbc"
    assert conf[f"{SPARK}.uri"] == "jdbc:postgresql://db.example:5432/iceberg?sslmode=require"
    assert (conf[f"{SPARK}.jdbc.user"], conf[f"{SPARK}.jdbc.password"]) == ("lake", "p@ss/")


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ({}, {}),
        (
            {"iceberg_rest_token": SecretStr("t")},
            {"token": "t", "oauth2-server-uri": "http://rest:8181/v1/oauth/tokens"},
        ),
        (
            {
                "iceberg_rest_credential": SecretStr("id:secret"),
                "iceberg_rest_scope": "PRINCIPAL_ROLE:ALL",
                "iceberg_rest_oauth2_uri": "http://idp/token",
            },
            {"credential": "id:secret", "scope": "PRINCIPAL_ROLE:ALL", "oauth2-server-uri": "http://idp/token"},
        ),
    ],
)
def test_rest_settings_configure_pyiceberg_and_spark(
    tmp_path: Path, credentials: dict[str, Any], expected: dict[str, str]
) -> None:
    chosen = settings(tmp_path, iceberg_rest_uri="http://rest:8181", iceberg_rest_warehouse="lake", **credentials)
    properties = {"type": "rest", "uri": "http://rest:8181", "warehouse": "lake", **expected}
    assert catalog_properties(chosen) == properties
    conf = {name.removeprefix(f"{SPARK}."): value for name, value in spark_catalog(chosen).items() if name != SPARK}
    assert conf == properties | ({"rest.auth.type": "oauth2"} if credentials else {})


def test_s3_settings_configure_pyiceberg_spark_and_hadoop(tmp_path: Path) -> None:
    chosen = settings(tmp_path, **S3)
    properties, conf = catalog_properties(chosen), spark_catalog(chosen)
    assert properties["s3.endpoint"] == conf[f"{SPARK}.s3.endpoint"] == conf["spark.hadoop.fs.s3a.endpoint"]
    assert properties["s3.secret-access-key"] == conf[f"{SPARK}.s3.secret-access-key"] == "secret"
    assert conf["spark.hadoop.fs.s3a.secret.key"] == "secret"
    assert conf[f"{SPARK}.io-impl"].endswith("S3FileIO")
    assert conf[f"{SPARK}.s3.path-style-access"] == conf["spark.hadoop.fs.s3a.path.style.access"] == "true"
    assert conf["spark.hadoop.fs.s3a.connection.ssl.enabled"] == "false"
    assert "s3.force-virtual-addressing" not in properties


def test_aws_s3_without_keys_uses_the_default_credentials(tmp_path: Path) -> None:
    chosen = settings(tmp_path, warehouse="s3://lake", s3_path_style=False, s3_region="eu-central-1")
    properties, conf = catalog_properties(chosen), spark_catalog(chosen)
    assert chosen.uses_s3
    assert properties["s3.force-virtual-addressing"] == "true"
    assert not [name for name in (*properties, *conf) if "endpoint" in name and "region" not in name]
    assert not [name for name in (*properties, *conf) if "access-key" in name or "access.key" in name]
    assert conf["spark.hadoop.fs.s3a.endpoint.region"] == conf[f"{SPARK}.client.region"] == "eu-central-1"


def test_locations_of_checkpoints_namespaces_and_cursor(tmp_path: Path) -> None:
    chosen = settings(tmp_path, **S3)
    assert chosen.checkpoint_location == "s3://lake/wh/_checkpoints"
    assert chosen.namespace_location_of("bronze") is None
    own = settings(tmp_path, **S3, checkpoints="s3://checkpoints/", namespace_location="s3://{namespace}/")
    assert (own.checkpoint_location, own.namespace_location_of("gold")) == ("s3://checkpoints", "s3://gold")
    assert own.follower_location() == "s3://checkpoints/_follower/cursor.json"
    assert hadoop_location(own.checkpoint_location) == "s3a://checkpoints"
    assert hadoop_location(settings(tmp_path).checkpoint_location) == f"file://{tmp_path}/warehouse/_checkpoints"
