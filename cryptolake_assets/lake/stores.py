"""Translate the settings of catalog and store for PyIceberg, Spark and Hadoop. Pure.

PyIceberg takes properties, Spark a configuration, and Hadoop (which writes Spark's streaming checkpoints) its own.
Sources: PyIceberg's and Iceberg's documents on catalogs and FileIO, Hadoop's on S3A.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from cryptolake_assets.model.table_spec import CATALOG
from cryptolake_assets.settings import Settings

SQLITE_TIMEOUT_S = 30  # maximum time that a writer waits for the lock on the SQLite catalog

_SPARK = f"spark.sql.catalog.{CATALOG}"
_S3A = "spark.hadoop.fs.s3a"


def catalog_properties(settings: Settings) -> dict[str, str]:
    """Return PyIceberg's properties of the configured catalog: REST, PostgreSQL or SQLite, on a path or S3."""
    if settings.iceberg_rest_uri:
        properties = {"type": "rest", "uri": settings.iceberg_rest_uri, "warehouse": _rest_warehouse(settings)}
        properties |= _rest_credentials(settings)
    else:
        properties = {"type": "sql", "uri": _sqlalchemy_uri(settings), "warehouse": settings.warehouse_location}
    return properties | _pyiceberg_s3(settings) if settings.uses_s3 else properties


def spark_catalog(settings: Settings) -> dict[str, str]:
    """Return Spark's configuration of the same catalog."""
    conf = {_SPARK: "org.apache.iceberg.spark.SparkCatalog"}
    if settings.iceberg_rest_uri:
        catalog = {"type": "rest", "uri": settings.iceberg_rest_uri, "warehouse": _rest_warehouse(settings)}
        if credentials := _rest_credentials(settings):
            catalog |= {"rest.auth.type": "oauth2", **credentials}
    else:
        catalog = {"type": "jdbc", "jdbc.schema-version": "V1", "warehouse": settings.warehouse_location}
        catalog |= _jdbc(settings)
    if settings.uses_s3:
        catalog |= _iceberg_s3(settings)
        conf |= _hadoop_s3(settings)
    return conf | {f"{_SPARK}.{name}": value for name, value in catalog.items()}


def hadoop_location(location: str) -> str:
    """Return a location for Hadoop's file systems, where S3 is `s3a`."""
    return f"s3a://{location.removeprefix('s3://')}" if location.startswith("s3://") else location


def postgres_url(uri: str) -> str:
    """Return a `postgresql://` URL with which SQLAlchemy uses the installed driver."""
    return f"postgresql+psycopg2://{uri.partition('://')[2]}"


def _rest_warehouse(settings: Settings) -> str:
    return settings.iceberg_rest_warehouse or settings.warehouse


def _rest_credentials(settings: Settings) -> dict[str, str]:
    """Return the REST credentials; PyIceberg and Iceberg's REST client use the same names."""
    token, credential = settings.iceberg_rest_token, settings.iceberg_rest_credential
    if not (token.get_secret_value() or credential.get_secret_value()):
        return {}
    return _without_empty(
        {
            "token": token.get_secret_value(),
            "credential": credential.get_secret_value(),
            "oauth2-server-uri": settings.iceberg_rest_oauth2_uri or f"{settings.iceberg_rest_uri}/v1/oauth/tokens",
            "scope": settings.iceberg_rest_scope,
        }
    )


def _sqlalchemy_uri(settings: Settings) -> str:
    uri = settings.catalog_uri.get_secret_value()
    if not uri:
        return f"sqlite:///{settings.catalog_db}?timeout={SQLITE_TIMEOUT_S}"
    return postgres_url(uri)


def _jdbc(settings: Settings) -> dict[str, str]:
    uri = settings.catalog_uri.get_secret_value()
    if not uri:
        return {"uri": f"jdbc:sqlite:{settings.catalog_db}?busy_timeout={SQLITE_TIMEOUT_S * 1000}&journal_mode=WAL"}
    parts = urlsplit(uri)
    address = parts.netloc.rpartition("@")[2]
    query = f"?{parts.query}" if parts.query else ""
    return {
        "uri": f"jdbc:postgresql://{address}{parts.path}{query}",
        "jdbc.user": unquote(parts.username or ""),
        "jdbc.password": unquote(parts.password or ""),
    }


def _pyiceberg_s3(settings: Settings) -> dict[str, str]:
    return _without_empty(
        {
            "s3.endpoint": settings.minio_endpoint,
            "s3.access-key-id": settings.minio_root_user,
            "s3.secret-access-key": settings.minio_root_password.get_secret_value(),
            "s3.session-token": settings.s3_session_token.get_secret_value(),
            "s3.region": settings.s3_region,
            "s3.force-virtual-addressing": "" if settings.s3_path_style else "true",
        }
    )


def _iceberg_s3(settings: Settings) -> dict[str, str]:
    return _without_empty(
        {
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "http-client.type": "urlconnection",  # the JDK's client: Iceberg's default needs another library
            "s3.endpoint": settings.minio_endpoint,
            "s3.path-style-access": "true" if settings.s3_path_style else "false",
            "s3.access-key-id": settings.minio_root_user,
            "s3.secret-access-key": settings.minio_root_password.get_secret_value(),
            "s3.session-token": settings.s3_session_token.get_secret_value(),
            "client.region": settings.s3_region,
        }
    )


def _hadoop_s3(settings: Settings) -> dict[str, str]:
    s3a = _without_empty(
        {
            "endpoint": settings.minio_endpoint,
            "endpoint.region": settings.s3_region,
            "path.style.access": "true" if settings.s3_path_style else "false",
            "access.key": settings.minio_root_user,
            "secret.key": settings.minio_root_password.get_secret_value(),
            "session.token": settings.s3_session_token.get_secret_value(),
            "connection.ssl.enabled": "false" if settings.minio_endpoint.startswith("http://") else "true",
        }
    )
    return {
        **{f"{_S3A}.{name}": value for name, value in s3a.items()},
        # S3 has no atomic rename: this manager makes checkpoint files appear atomically on upload.
        "spark.sql.streaming.checkpointFileManagerClass": (
            "org.apache.spark.internal.io.cloud.AbortableStreamBasedCheckpointFileManager"
        ),
    }


def _without_empty(properties: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in properties.items() if value}
