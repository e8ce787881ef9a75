"""Makes the warehouse at an Apache Polaris catalog: `python docker/polaris/warehouse.py`, with the lake's settings.

Source: Polaris' management API (polaris-management-service.yml of 1.7.0). Safe to run again; a warehouse that is there
is left as it is.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx

from cryptolake_assets.errors import CatalogSetupError, CryptolakeError
from cryptolake_assets.model.tables import namespaces
from cryptolake_assets.settings import Settings, get_settings

TIMEOUT_S = 30.0
ADMIN_ROLE = "catalog_admin"
"""The role that Polaris makes with a warehouse and gives to who made it; it may not touch tables by itself."""
CONTENT = "CATALOG_MANAGE_CONTENT"
_CATALOG_PATH = "/api/catalog"
_MANAGEMENT_PATH = "/api/management/v1"


def warehouse(settings: Settings) -> dict[str, Any]:
    """The request that makes it: the places where tables may lie, and the store as clients reach it.

    Of a namespace's location Polaris wants that it is an allowed one with the namespace's name behind it.
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
                # Clients have keys of the store by their settings: none are lent to them for an hour.
                "stsUnavailable": True,
            },
        }
    }


def ensure_warehouse(settings: Settings) -> bool:
    """Makes the warehouse and the right to its tables; False where it was there. Raises `CatalogSetupError`."""
    address = settings.iceberg_rest_uri.rstrip("/")
    if not address.endswith(_CATALOG_PATH):
        raise CatalogSetupError(
            f"catalog: {address or 'ICEBERG_REST_URI'} is not the address of a Polaris catalog, which ends in "
            f"{_CATALOG_PATH}. Correct ICEBERG_REST_URI; other catalogs' warehouses are made by their own tools."
        )
    management = address.removesuffix(_CATALOG_PATH) + _MANAGEMENT_PATH
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
            client.headers["Authorization"] = f"Bearer {_token(client, settings)}"
            answer = client.post(f"{management}/catalogs", json=warehouse(settings))
            made = answer.status_code != httpx.codes.CONFLICT
            if made:
                _accept(answer)
            grants = f"{management}/catalogs/{settings.iceberg_rest_warehouse}/catalog-roles/{ADMIN_ROLE}/grants"
            _accept(client.put(grants, json={"grant": {"type": "catalog", "privilege": CONTENT}}))
    except httpx.HTTPError as error:
        raise CatalogSetupError(
            f"catalog: {address} cannot be reached ({type(error).__name__}: {error}). Start it, or correct "
            "ICEBERG_REST_URI."
        ) from None
    return made


def _token(client: httpx.Client, settings: Settings) -> str:
    """An access token for the credential of the settings (OAuth 2, client credentials)."""
    identity, _, secret = settings.iceberg_rest_credential.get_secret_value().partition(":")
    answer = client.post(
        settings.iceberg_rest_oauth2_uri or f"{settings.iceberg_rest_uri.rstrip('/')}/v1/oauth/tokens",
        data={"grant_type": "client_credentials", "scope": settings.iceberg_rest_scope},
        auth=(identity, secret),
    )
    _accept(answer)
    return str(answer.json()["access_token"])


def _accept(answer: httpx.Response) -> None:
    """Raises `CatalogSetupError` unless the answer is a success."""
    if not answer.is_success:
        raise CatalogSetupError(
            f"catalog: {answer.request.method} {answer.request.url} was answered with {answer.status_code}: "
            f"{answer.text[:300]}. Check ICEBERG_REST_CREDENTIAL and the catalog's log."
        )


def main() -> int:
    """The process's entry: 0 when the warehouse is there, 1 with a message on stderr."""
    try:
        settings = get_settings()
        made = ensure_warehouse(settings)
    except CryptolakeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"warehouse {settings.iceberg_rest_warehouse}: {'made' if made else 'is there'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
