"""Routes with JSON of the present state: other formats and earlier states are rejected with a message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest

from cryptolake_assets.api import present
from cryptolake_assets.errors import PartError
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.api import Api, serving

ROUTES = ("/operations/parts", "/operations/assets", "/quality/checks", "/health")
WITH_DAGSTER = ("/operations/assets", "/quality/checks")


@pytest.fixture
def api(bars: Settings) -> Iterator[Api]:
    with serving(bars, dagster_port=9) as made:  # a platform may run on the default port
        yield made


def test_cached_value_is_read_again_once_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(present, "time", SimpleNamespace(monotonic=lambda: now[0]))
    cached = present.CachedValue(partial(next, count()), max_age_s=2.0)
    found = []
    for now[0] in (10.0, 12.0, 12.5, 14.0, 15.0):
        found.append(cached.get())
    assert found == [0, 0, 1, 1, 2]


def test_failed_read_is_not_cached() -> None:
    numbers = count()

    def read() -> int:
        number = next(numbers)
        if number == 0:
            raise PartError("down")
        return number

    cached = present.CachedValue(read, max_age_s=60.0)
    with pytest.raises(PartError):
        cached.get()
    assert [cached.get(), cached.get()] == [1, 1]


@pytest.mark.parametrize("path", [*ROUTES, "/catalog"])
def test_other_format_is_rejected_naming_the_available_one(shared_api: Api, path: str) -> None:
    for requested in ("csv", "parquet", "xml", ""):
        rejected = shared_api.get(path, params={"format": requested})
        assert (rejected.status_code, rejected.headers["content-type"]) == (422, "application/problem+json"), requested
        (error,) = rejected.json()["errors"]
        assert error["parameter"] == "format"
        assert "'json'" in error["message"]
    assert shared_api.get(path, params={"format": "json"}).status_code == (503 if path in WITH_DAGSTER else 200)


@pytest.mark.parametrize("path", ROUTES)
def test_earlier_state_is_rejected(shared_api: Api, path: str) -> None:
    for requested in ("2025-01-30", "4380632660656785949", ""):
        rejected = shared_api.get(path, params={"as_of": requested})
        assert rejected.status_code == 422, requested
        (error,) = rejected.json()["errors"]
        assert error["parameter"] == "as_of"
        assert "present" in error["message"]


@pytest.mark.parametrize("path", ["/operations/parts", "/operations/assets", "/quality/checks", "/catalog"])
def test_accept_without_json_is_rejected_naming_json(shared_api: Api, path: str) -> None:
    rejected = shared_api.get(path, headers={"Accept": "text/csv"})
    assert rejected.status_code == 406
    assert "application/json" in rejected.json()["detail"]


def test_health_ignores_accept(shared_api: Api) -> None:
    assert shared_api.get("/health", headers={"Accept": "text/plain"}).status_code == 200


def test_document_describes_these_rejections(shared_api: Api) -> None:
    paths = json.loads(shared_api.get("/openapi.json").content)["paths"]
    for path in ROUTES:
        operation = paths[path]["get"]
        (parameter,) = operation["parameters"]
        assert (parameter["name"], parameter["in"]) == ("format", "query"), path
        assert "422" in operation["responses"]
        assert ("406" in operation["responses"]) == (path != "/health")
