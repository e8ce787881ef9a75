"""Routes that answer JSON of the present: what else is asked of them is refused in words, and not ignored."""

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
    with serving(bars, dagster_port=9) as made:  # a platform may run on the usual one
        yield made


def test_a_kept_value_is_read_again_when_it_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(present, "time", SimpleNamespace(monotonic=lambda: now[0]))
    kept = present.CachedValue(partial(next, count()), max_age_s=2.0)
    found = []
    for now[0] in (10.0, 12.0, 12.5, 14.0, 15.0):
        found.append(kept.get())
    assert found == [0, 0, 1, 1, 2]


def test_a_value_that_cannot_be_read_is_not_kept() -> None:
    numbers = count()

    def read() -> int:
        number = next(numbers)
        if number == 0:
            raise PartError("down")
        return number

    kept = present.CachedValue(read, max_age_s=60.0)
    with pytest.raises(PartError):
        kept.get()
    assert [kept.get(), kept.get()] == [1, 1]


@pytest.mark.parametrize("path", [*ROUTES, "/catalog"])
def test_another_format_is_rejected_with_the_one_that_is_there(shared_api: Api, path: str) -> None:
    for wanted in ("csv", "parquet", "xml", ""):
        refused = shared_api.get(path, params={"format": wanted})
        assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json"), wanted
        (error,) = refused.json()["errors"]
        assert error["parameter"] == "format"
        assert "'json'" in error["message"]
    assert shared_api.get(path, params={"format": "json"}).status_code == (503 if path in WITH_DAGSTER else 200)


@pytest.mark.parametrize("path", ROUTES)
def test_an_earlier_state_is_rejected(shared_api: Api, path: str) -> None:
    for wanted in ("2025-01-30", "4380632660656785949", ""):
        refused = shared_api.get(path, params={"as_of": wanted})
        assert refused.status_code == 422, wanted
        (error,) = refused.json()["errors"]
        assert error["parameter"] == "as_of"
        assert "present" in error["message"]


@pytest.mark.parametrize("path", ["/operations/parts", "/operations/assets", "/quality/checks", "/catalog"])
def test_who_accepts_no_json_is_told_what_there_is(shared_api: Api, path: str) -> None:
    refused = shared_api.get(path, headers={"Accept": "text/csv"})
    assert refused.status_code == 406
    assert "application/json" in refused.json()["detail"]


def test_health_is_told_whatever_its_prober_accepts(shared_api: Api) -> None:
    assert shared_api.get("/health", headers={"Accept": "text/plain"}).status_code == 200


def test_the_document_says_so(shared_api: Api) -> None:
    paths = json.loads(shared_api.get("/openapi.json").content)["paths"]
    for path in ROUTES:
        said = paths[path]["get"]
        (parameter,) = said["parameters"]
        assert (parameter["name"], parameter["in"]) == ("format", "query"), path
        assert "422" in said["responses"]
        assert ("406" in said["responses"]) == (path != "/health")
