"""Settings of the lake: catalog, file locations, and access to both."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from cryptolake_assets.settings.ingest import named


class LakeSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    iceberg_rest_uri: str = named(
        "ICEBERG_REST_URI", "", "URL of the Iceberg REST catalog. Empty: the catalog of CRYPTOLAKE_CATALOG_URI."
    )
    iceberg_rest_warehouse: str = named(
        "ICEBERG_REST_WAREHOUSE", "", "Name of the warehouse in the REST catalog. Empty: CRYPTOLAKE_WAREHOUSE."
    )
    iceberg_rest_token: SecretStr = named(
        "ICEBERG_REST_TOKEN",
        SecretStr(""),
        "Bearer token for the REST catalog. Empty: ICEBERG_REST_CREDENTIAL is used, if set.",
    )
    iceberg_rest_credential: SecretStr = named(
        "ICEBERG_REST_CREDENTIAL",
        SecretStr(""),
        "`client-id:secret` for the REST catalog (OAuth 2 client credentials), exchanged for a token.",
    )
    iceberg_rest_oauth2_uri: str = named(
        "ICEBERG_REST_OAUTH2_URI", "", "Token endpoint for the credential. Empty: the REST catalog itself."
    )
    iceberg_rest_scope: str = named("ICEBERG_REST_SCOPE", "", "OAuth 2 scope requested with the credential.")
    catalog_uri: SecretStr = named(
        "CRYPTOLAKE_CATALOG_URI",
        SecretStr(""),
        "URL of the JDBC catalog in PostgreSQL, postgresql://<user>:<password>@host:5432/database. Empty: SQLite in "
        "CRYPTOLAKE_HOME.",
    )
    warehouse: str = named(
        "CRYPTOLAKE_WAREHOUSE",
        "",
        "Location of the warehouse, a path or s3://bucket/prefix. Empty: in CRYPTOLAKE_HOME.",
    )
    namespace_location: str = named(
        "CRYPTOLAKE_NAMESPACE_LOCATION",
        "",
        "Location of each namespace's tables, such as s3://{namespace}/. Empty: in the warehouse.",
        pattern=r"^$|\{namespace\}",
    )
    checkpoints: str = named(
        "CRYPTOLAKE_CHECKPOINTS",
        "",
        "Location of the Bronze stream's checkpoints, a path or s3://bucket/prefix. Empty: in the warehouse.",
    )

    minio_endpoint: str = named(
        "MINIO_ENDPOINT", "", "Endpoint URL of the S3 store. Empty: Amazon S3, for an s3:// warehouse."
    )
    minio_root_user: str = named(
        "MINIO_ROOT_USER", "", "Access key of the S3 store. Empty: the AWS credential chain (profiles, roles)."
    )
    minio_root_password: SecretStr = named("MINIO_ROOT_PASSWORD", SecretStr(""), "Secret key of the S3 store.")
    s3_session_token: SecretStr = named(
        "CRYPTOLAKE_S3_SESSION_TOKEN", SecretStr(""), "Session token of temporary S3 keys."
    )
    s3_region: str = named("CRYPTOLAKE_S3_REGION", "us-east-1", "Region of the S3 store.")
    s3_path_style: bool = named(
        "CRYPTOLAKE_S3_PATH_STYLE",
        True,
        "Use path-style S3 URLs (MinIO and most others); false: the bucket is in the host name (Amazon).",
    )
