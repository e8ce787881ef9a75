"""The warehouse in a Polaris catalog: requests to its management API, and errors for rejected requests."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from types import ModuleType
from urllib.parse import parse_qs

import pytest

from cryptolake_assets.errors import CatalogSetupError
from cryptolake_assets.model.tables import namespaces
from cryptolake_assets.settings import PROJECT_ROOT, Settings, load_settings
from cryptolake_tests.support import web


def load_script() -> ModuleType:
    """Return the script as a module; it is part of the containers, not of the package."""
    spec = importlib.util.spec_from_file_location("warehouse", PROJECT_ROOT / "docker/polaris/warehouse.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


class Polaris(ThreadingHTTPServer):
    """Respond like Polaris 1.7.0 by its specification, and record the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, dict[str, object]]] = []
        self.catalogs: set[str] = set()
        self.credential = "generated"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api/catalog"


class Handler(web.QuietHandler):
    server: Polaris

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/oauth/tokens"):
            form = parse_qs(body.decode())
            basic = base64.b64encode(f"cryptolake:{self.server.credential}".encode()).decode()
            is_valid = form == {"grant_type": ["client_credentials"], "scope": ["PRINCIPAL_ROLE:ALL"]}
            if is_valid and self.headers["Authorization"] == f"Basic {basic}":
                self.respond_json(200, {"access_token": "token", "token_type": "bearer"})
            else:
                self.respond_json(401, {"error": "unauthorized_client"})
            return
        self.record(body)
        name = json.loads(body)["catalog"]["name"]
        self.respond_json(409 if name in self.server.catalogs else 201, {})
        self.server.catalogs.add(name)

    def do_PUT(self) -> None:
        self.record(self.rfile.read(int(self.headers["Content-Length"])))
        self.respond_json(201, {})

    def record(self, body: bytes) -> None:
        assert self.headers["Authorization"] == "Bearer token"
        self.server.requests.append((self.command, self.path, json.loads(body)))

    def respond_json(self, status: int, values: dict[str, object]) -> None:
        self.respond(status, json.dumps(values).encode())


@pytest.fixture
def polaris() -> Iterator[Polaris]:
    server = Polaris()
    with web.serving(server):
        yield server


def settings_of(address: str, credential: str = "generated") -> Settings:
    return load_settings(
        iceberg_rest_uri=address,
        iceberg_rest_warehouse="cryptolake",
        iceberg_rest_credential=f"cryptolake:{credential}",
        iceberg_rest_scope="PRINCIPAL_ROLE:ALL",
        warehouse="s3://lake",
        namespace_location="s3://{namespace}/{namespace}",
        minio_endpoint="http://minio:9000",
    )


def test_warehouse_is_created_once_with_the_right_to_its_tables(polaris: Polaris) -> None:
    settings = settings_of(polaris.address)
    assert script.ensure_warehouse(settings)
    assert not script.ensure_warehouse(settings)
    grants = "/api/management/v1/catalogs/cryptolake/catalog-roles/catalog_admin/grants"
    grant = {"grant": {"type": "catalog", "privilege": "CATALOG_MANAGE_CONTENT"}}
    catalogs = ("POST", "/api/management/v1/catalogs", script.warehouse(settings))
    assert polaris.requests == [catalogs, ("PUT", grants, grant)] * 2


def test_every_namespace_is_in_an_allowed_location_under_its_name() -> None:
    settings = settings_of("http://iceberg-rest:8181/api/catalog")
    storage = script.warehouse(settings)["catalog"]["storageConfigInfo"]
    assert {"bronze", "silver", "gold", "ops", "marts"} <= set(namespaces())
    for namespace in namespaces():
        location = settings.namespace_location_of(namespace)
        assert location in {f"{allowed}/{namespace}" for allowed in storage["allowedLocations"]}
    assert "s3://lake" in storage["allowedLocations"]
    assert (storage["endpoint"], storage["pathStyleAccess"]) == ("http://minio:9000", True)


def test_rejected_request_is_reported_with_the_next_step(polaris: Polaris) -> None:
    with pytest.raises(CatalogSetupError, match=r"POST .*/oauth/tokens returned 401.*ICEBERG_REST_CREDENTIAL"):
        script.ensure_warehouse(settings_of(polaris.address, "another"))
    with pytest.raises(CatalogSetupError, match="is not the address of a Polaris catalog"):
        script.ensure_warehouse(settings_of("http://iceberg-rest:8181"))
    with pytest.raises(CatalogSetupError, match="cannot be reached"):
        script.ensure_warehouse(settings_of("http://127.0.0.1:9/api/catalog"))
