"""Settings of the lake: catalog, file locations, and access to both."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from cryptolake_assets.settings.ingest import named


class LakeSettings(BaseSettings):
    """Part of `settings.Settings`, which says where values come from."""

    iceberg_rest_uri: str = named(
        "ICEBERG_REST_URI", "", "Iceberg REST catalog. Empty: the catalog of CRYPTOLAKE_CATALOG_URI."
    )
    iceberg_rest_warehouse: str = named(
        "ICEBERG_REST_WAREHOUSE", "", "Name of the warehouse at the REST catalog. Empty: CRYPTOLAKE_WAREHOUSE."
    )
    iceberg_rest_token: SecretStr = named(
        "ICEBERG_REST_TOKEN",
        SecretStr(""),
        "Bearer token for the REST catalog. Empty: ICEBERG_REST_CREDENTIAL, if any.",
    )
    iceberg_rest_credential: SecretStr = named(
        "ICEBERG_REST_CREDENTIAL",
        SecretStr(""),
        "`client-id:secret` that is exchanged for a token at the REST catalog (OAuth 2 client credentials).",
    )
    iceberg_rest_oauth2_uri: str = named(
        "ICEBERG_REST_OAUTH2_URI", "", "Where the credential is exchanged. Empty: at the REST catalog itself."
    )
    iceberg_rest_scope: str = named("ICEBERG_REST_SCOPE", "", "Scope that is asked for with the credential.")
    catalog_uri: SecretStr = named(
        "CRYPTOLAKE_CATALOG_URI",
        SecretStr(""),
        "JDBC catalog in PostgreSQL, postgresql://<user>:<password>@host:5432/database. Empty: SQLite under "
        "CRYPTOLAKE_HOME.",
    )
    warehouse: str = named(
        "CRYPTOLAKE_WAREHOUSE", "", "Warehouse location, a path or s3://bucket/prefix. Empty: under CRYPTOLAKE_HOME."
    )
    namespace_location: str = named(
        "CRYPTOLAKE_NAMESPACE_LOCATION",
        "",
        "Where each namespace's tables lie, such as s3://{namespace}/. Empty: in the warehouse.",
        pattern=r"^$|\{namespace\}",
    )
    checkpoints: str = named(
        "CRYPTOLAKE_CHECKPOINTS",
        "",
        "Where the Bronze stream keeps its checkpoints, a path or s3://bucket/prefix. Empty: in the warehouse.",
    )

    minio_endpoint: str = named("MINIO_ENDPOINT", "", "S3 endpoint URL. Empty: Amazon's, for an s3:// warehouse.")
    minio_root_user: str = named(
        "MINIO_ROOT_USER", "", "Access key of the S3 store. Empty: what the environment of AWS gives (profiles, roles)."
    )
    minio_root_password: SecretStr = named("MINIO_ROOT_PASSWORD", SecretStr(""), "Secret key of the S3 store.")
    s3_session_token: SecretStr = named(
        "CRYPTOLAKE_S3_SESSION_TOKEN", SecretStr(""), "Session token that goes with temporary keys."
    )
    s3_region: str = named("CRYPTOLAKE_S3_REGION", "us-east-1", "Region of the S3 store.")
    s3_path_style: bool = named(
        "CRYPTOLAKE_S3_PATH_STYLE",
        True,
        "Whether buckets stand in the path (MinIO and most others) or in the host name (Amazon).",
    )
