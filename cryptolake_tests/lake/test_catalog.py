"""A catalog that does not answer, or refuses, is told with what to do."""

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


class _Refusing(web.QuietHandler):
    """A catalog that wants another token."""

    def do_GET(self) -> None:
        self.answer(401)


@contextmanager
def refusing() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    with web.serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def at_rest(tmp_path: Path, uri: str) -> Settings:
    token = SecretStr("a-token-that-nobody-knows")
    return load_settings(home=tmp_path, iceberg_rest_uri=uri, iceberg_rest_token=token, iceberg_rest_warehouse="lake")


def test_a_rest_catalog_that_refuses_the_token(tmp_path: Path) -> None:
    with refusing() as uri, pytest.raises(CatalogUnreachableError, match=r"refuses.*ICEBERG_REST_TOKEN") as told:
        get_catalog(at_rest(tmp_path, uri))
    assert uri in str(told.value)
    assert "nobody-knows" not in str(told.value)


def test_a_rest_catalog_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnreachableError, match=r"cannot be reached.*correct ICEBERG_REST_URI"):
        get_catalog(at_rest(tmp_path, f"http://127.0.0.1:{free_port()}"))


def test_postgresql_without_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver comes with the extra `cluster`; whether this environment has it does not matter here."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    uri = SecretStr(f"postgresql://somebody:{'hidden'}@127.0.0.1:{free_port()}/lake")
    with pytest.raises(CatalogUnreachableError, match=r"psycopg2.*cryptolake\[cluster\]") as told:
        get_catalog(load_settings(home=tmp_path, catalog_uri=uri))
    assert "hidden" not in str(told.value)
