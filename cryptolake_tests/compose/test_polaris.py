"""The warehouse at a Polaris catalog: what is asked of its management API, and how refusals are told."""

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
    """The script as a module: it belongs to the containers, not to the package."""
    spec = importlib.util.spec_from_file_location("warehouse", PROJECT_ROOT / "docker/polaris/warehouse.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


class Polaris(ThreadingHTTPServer):
    """Answers as Polaris 1.7.0 does by its specification, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, dict[str, object]]] = []
        self.catalogs: set[str] = set()
        self.drawn = "drawn"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api/catalog"


class Handler(web.QuietHandler):
    server: Polaris

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/oauth/tokens"):
            form = parse_qs(body.decode())
            basic = base64.b64encode(f"cryptolake:{self.server.drawn}".encode()).decode()
            right = form == {"grant_type": ["client_credentials"], "scope": ["PRINCIPAL_ROLE:ALL"]}
            if right and self.headers["Authorization"] == f"Basic {basic}":
                self.tell(200, {"access_token": "token", "token_type": "bearer"})
            else:
                self.tell(401, {"error": "unauthorized_client"})
            return
        self.remember(body)
        name = json.loads(body)["catalog"]["name"]
        self.tell(409 if name in self.server.catalogs else 201, {})
        self.server.catalogs.add(name)

    def do_PUT(self) -> None:
        self.remember(self.rfile.read(int(self.headers["Content-Length"])))
        self.tell(201, {})

    def remember(self, body: bytes) -> None:
        assert self.headers["Authorization"] == "Bearer token"
        self.server.asked.append((self.command, self.path, json.loads(body)))

    def tell(self, status: int, values: dict[str, object]) -> None:
        self.answer(status, json.dumps(values).encode())


@pytest.fixture
def polaris() -> Iterator[Polaris]:
    server = Polaris()
    with web.serving(server):
        yield server


def settings_of(address: str, drawn: str = "drawn") -> Settings:
    return load_settings(
        iceberg_rest_uri=address,
        iceberg_rest_warehouse="cryptolake",
        iceberg_rest_credential=f"cryptolake:{drawn}",
        iceberg_rest_scope="PRINCIPAL_ROLE:ALL",
        warehouse="s3://lake",
        namespace_location="s3://{namespace}/{namespace}",
        minio_endpoint="http://minio:9000",
    )


def test_the_warehouse_is_made_once_and_its_tables_may_be_touched(polaris: Polaris) -> None:
    settings = settings_of(polaris.address)
    assert script.ensure_warehouse(settings)
    assert not script.ensure_warehouse(settings)
    grants = "/api/management/v1/catalogs/cryptolake/catalog-roles/catalog_admin/grants"
    grant = {"grant": {"type": "catalog", "privilege": "CATALOG_MANAGE_CONTENT"}}
    catalogs = ("POST", "/api/management/v1/catalogs", script.warehouse(settings))
    assert polaris.asked == [catalogs, ("PUT", grants, grant)] * 2


def test_every_namespace_lies_where_polaris_allows_it_by_name() -> None:
    settings = settings_of("http://iceberg-rest:8181/api/catalog")
    storage = script.warehouse(settings)["catalog"]["storageConfigInfo"]
    assert {"bronze", "silver", "gold", "ops", "marts"} <= set(namespaces())
    for namespace in namespaces():
        location = settings.namespace_location_of(namespace)
        assert location in {f"{allowed}/{namespace}" for allowed in storage["allowedLocations"]}
    assert "s3://lake" in storage["allowedLocations"]
    assert (storage["endpoint"], storage["pathStyleAccess"]) == ("http://minio:9000", True)


def test_a_refusal_names_the_request_and_the_next_step(polaris: Polaris) -> None:
    with pytest.raises(CatalogSetupError, match=r"POST .*/oauth/tokens was answered with 401.*ICEBERG_REST_CREDENTIAL"):
        script.ensure_warehouse(settings_of(polaris.address, "another"))
    with pytest.raises(CatalogSetupError, match="is not the address of a Polaris catalog"):
        script.ensure_warehouse(settings_of("http://iceberg-rest:8181"))
    with pytest.raises(CatalogSetupError, match="cannot be reached"):
        script.ensure_warehouse(settings_of("http://127.0.0.1:9/api/catalog"))
