"""The errors of an unreachable or rejecting catalog name the setting to check."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from cryptolake_assets.errors import CatalogUnreachableError
from cryptolake_assets.lake.catalog import get_catalog
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support import web
from cryptolake_tests.support.servers import free_port


class _RejectingHandler(web.QuietHandler):
    """A catalog that rejects every token."""

    def do_GET(self) -> None:
        self.respond(401)


@contextmanager
def rejecting_catalog() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _RejectingHandler)
    with web.serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def rest_settings(tmp_path: Path, uri: str) -> Settings:
    token = SecretStr("an-unknown-token")
    return load_settings(home=tmp_path, iceberg_rest_uri=uri, iceberg_rest_token=token, iceberg_rest_warehouse="lake")


def test_rejected_token_names_the_token_setting(tmp_path: Path) -> None:
    with (
        rejecting_catalog() as uri,
        pytest.raises(CatalogUnreachableError, match=r"rejected the request.*ICEBERG_REST_TOKEN") as error,
    ):
        get_catalog(rest_settings(tmp_path, uri))
    assert uri in str(error.value)
    assert "an-unknown-token" not in str(error.value)


def test_unreachable_rest_catalog_names_the_uri_setting(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnreachableError, match=r"cannot be reached.*correct ICEBERG_REST_URI"):
        get_catalog(rest_settings(tmp_path, f"http://127.0.0.1:{free_port()}"))


def test_missing_postgresql_driver_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is part of the extra `cluster`; the test hides it if it is installed."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    uri = SecretStr(f"postgresql://somebody:{'hidden'}@127.0.0.1:{free_port()}/lake")
    with pytest.raises(CatalogUnreachableError, match=r"psycopg2.*cryptolake\[cluster\]") as error:
        get_catalog(load_settings(home=tmp_path, catalog_uri=uri))
    assert "hidden" not in str(error.value)
