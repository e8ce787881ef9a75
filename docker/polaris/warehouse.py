"""Create the warehouse in an Apache Polaris catalog: `python docker/polaris/warehouse.py`, with the lake's settings.

Idempotent: an existing warehouse is not changed. Source: Polaris' management API (polaris-management-service.yml of
1.7.0).
"""

from __future__ import annotations

import sys
from typing import Any

import httpx

from cryptolake_assets.errors import CatalogSetupError, CryptolakeError
from cryptolake_assets.model.tables import namespaces
from cryptolake_assets.settings import Settings, get_settings

TIMEOUT_S = 30.0
# Polaris creates this role with a warehouse and grants it to the creator; by default it has no privileges on tables.
ADMIN_ROLE = "catalog_admin"
CONTENT = "CATALOG_MANAGE_CONTENT"
_CATALOG_PATH = "/api/catalog"
_MANAGEMENT_PATH = "/api/management/v1"


def warehouse(settings: Settings) -> dict[str, Any]:
    """Return the request that creates the warehouse: allowed locations of tables, and the store's address for clients.

    Polaris requires a namespace's location to be an allowed location followed by the namespace's name.
    """
    locations = [settings.namespace_location_of(name) or settings.warehouse_location for name in namespaces()]
    allowed = sorted({location.rpartition("/")[0] for location in locations} | {settings.warehouse_location})
    return {
        "catalog": {
            "type": "INTERNAL",
            "name": settings.iceberg_rest_warehouse,
            "properties": {"default-base-location": settings.warehouse_location},
            "storageConfigInfo": {
                "storageType": "S3",
                "allowedLocations": allowed,
                "endpoint": settings.minio_endpoint,
                "region": settings.s3_region,
                "pathStyleAccess": settings.s3_path_style,
                # Clients have the store's keys from their settings and need no temporary credentials.
                "stsUnavailable": True,
            },
        }
    }


def ensure_warehouse(settings: Settings) -> bool:
    """Create the warehouse and grant the right to its tables; return whether it is new. Raises `CatalogSetupError`."""
    address = settings.iceberg_rest_uri.rstrip("/")
    if not address.endswith(_CATALOG_PATH):
        raise CatalogSetupError(
            f"catalog: {address or 'ICEBERG_REST_URI'} is not the address of a Polaris catalog, which ends in "
            f"{_CATALOG_PATH}. Correct ICEBERG_REST_URI; for another catalog, create the warehouse with its tools."
        )
    management = address.removesuffix(_CATALOG_PATH) + _MANAGEMENT_PATH
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
            client.headers["Authorization"] = f"Bearer {_token(client, settings)}"
            response = client.post(f"{management}/catalogs", json=warehouse(settings))
            created = response.status_code != httpx.codes.CONFLICT
            if created:
                _require_success(response)
            grants = f"{management}/catalogs/{settings.iceberg_rest_warehouse}/catalog-roles/{ADMIN_ROLE}/grants"
            _require_success(client.put(grants, json={"grant": {"type": "catalog", "privilege": CONTENT}}))
    except httpx.HTTPError as error:
        raise CatalogSetupError(
            f"catalog: {address} cannot be reached ({type(error).__name__}: {error}). Start it, or correct "
            "ICEBERG_REST_URI."
        ) from None
    return created


def _token(client: httpx.Client, settings: Settings) -> str:
    """Return an access token for the credential of the settings (OAuth 2, client credentials)."""
    identity, _, secret = settings.iceberg_rest_credential.get_secret_value().partition(":")
    response = client.post(
        settings.iceberg_rest_oauth2_uri or f"{settings.iceberg_rest_uri.rstrip('/')}/v1/oauth/tokens",
        data={"grant_type": "client_credentials", "scope": settings.iceberg_rest_scope},
        auth=(identity, secret),
    )
    _require_success(response)
    return str(response.json()["access_token"])


def _require_success(response: httpx.Response) -> None:
    """Raise `CatalogSetupError` unless the response is a success."""
    if not response.is_success:
        raise CatalogSetupError(
            f"catalog: {response.request.method} {response.request.url} returned {response.status_code}: "
            f"{response.text[:300]}. Check ICEBERG_REST_CREDENTIAL and the catalog's log."
        )


def main() -> int:
    """Entry point: return 0 if the warehouse exists, else 1 with a message on stderr."""
    try:
        settings = get_settings()
        created = ensure_warehouse(settings)
    except CryptolakeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"warehouse {settings.iceberg_rest_warehouse}: {'created' if created else 'exists'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
