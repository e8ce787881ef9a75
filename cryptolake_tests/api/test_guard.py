"""Keys, scopes and rate limits."""

from __future__ import annotations

import json
import secrets
import stat

import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import connect

from cryptolake_assets.api.api_keys import KeyRing, Scope, create_key, keys_path, list_keys, register_key, revoke_key
from cryptolake_assets.errors import ApiKeyError
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.api import serving


@pytest.fixture
def guarded(bars: Settings) -> Settings:
    return bars.model_copy(update={"api_require_keys": True})


@pytest.mark.parametrize(
    ("host", "required"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("10.0.0.1", True), ("a.b", True)],
)
def test_keys_are_required_unless_on_loopback(host: str, required: bool) -> None:
    assert load_settings(api_host=host).api_keys_required is required


def test_only_the_health_status_is_public(guarded: Settings) -> None:
    with serving(guarded) as client:
        response = client.get("/symbols")
        assert (response.status_code, response.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert client.get("/symbols", headers={"X-API-Key": "cl_x_y"}).status_code == 401
        assert set(client.get("/health").json()) == {"status"}
        assert rejection(f"{client.ws_url}/ws/ohlcv?symbols=BTCUSDT").status_code == 401


def test_key_is_limited_to_its_scopes(guarded: Settings) -> None:
    read = {"Authorization": f"Bearer {create_key(guarded, 'a', (Scope.READ,))}"}
    operate = {"X-API-Key": create_key(guarded, "b", (Scope.OPERATE,))}
    with serving(guarded) as client:
        assert client.get("/symbols", headers=read).status_code == 200
        assert client.get("/metrics", headers=read).json()["type"].endswith(":forbidden")
        assert client.get("/metrics", headers=operate).status_code == 200
        assert client.get("/symbols", headers=operate).status_code == 403
        assert "dependencies" in client.get("/health", headers=read).json()
        revoke_key(guarded, list_keys(guarded)[0].id)
        assert client.get("/symbols", headers=read).status_code == 401


def test_name_has_one_key(lake: Settings) -> None:
    create_key(lake, "ada", (Scope.READ,))
    (key,) = list_keys(lake)
    with pytest.raises(ApiKeyError, match=f"a key named ada exists already .*cryptolake keys revoke {key.id}"):
        create_key(lake, " ada ", (Scope.OPERATE,))
    with pytest.raises(ApiKeyError, match="the name is empty"):
        create_key(lake, "  ", (Scope.READ,))
    assert list_keys(lake) == [key]


def test_key_is_revoked_by_name_or_id(lake: Settings) -> None:
    for name in ("ada", "币安人生", "carl"):
        create_key(lake, name, (Scope.READ,))
    assert revoke_key(lake, "币安人生").name == "币安人生"
    assert revoke_key(lake, list_keys(lake)[0].id).name == "ada"
    with pytest.raises(ApiKeyError, match=r"no key has the id or name carla\. Did you mean carl\?"):
        revoke_key(lake, "carla")
    assert [key.name for key in list_keys(lake)] == ["carl"]


def test_ambiguous_name_revokes_no_key(lake: Settings) -> None:
    """Earlier releases allowed keys with equal names."""
    create_key(lake, "ada", (Scope.READ,))
    create_key(lake, "bob", (Scope.READ,))
    path = keys_path(lake)
    path.write_text(path.read_text().replace("bob", "ada"))
    ids = [key.id for key in list_keys(lake)]
    with pytest.raises(ApiKeyError, match=f"2 keys are named ada. Revoke by id: {', '.join(ids)}"):
        revoke_key(lake, "ada")
    assert revoke_key(lake, ids[1]).id == ids[1]
    assert revoke_key(lake, "ada").id == ids[0]


def test_credentials_are_ignored_if_no_key_is_required(bars: Settings) -> None:
    key = create_key(bars, "a", (Scope.READ,))
    with serving(bars) as client:
        for value in ("Basic YTpi", "Bearer of-something-else", "Bearer cl_0_wrong", "Digest", "", f"Bearer {key}"):
            assert client.get("/symbols", headers={"Authorization": value}).status_code == 200, value
            assert client.get("/metrics", headers={"Authorization": value}).status_code == 200, value
            with connect(f"{client.ws_url}/ws/ohlcv?symbols=BTCUSDT", additional_headers={"Authorization": value}):
                pass
        assert "dependencies" in client.get("/health", headers={"X-API-Key": "wrong"}).json()


def test_other_credentials_do_not_hide_a_key(guarded: Settings) -> None:
    basic = {"Authorization": "Basic YTpi"}
    with serving(guarded) as client:
        assert client.get("/symbols", headers=basic).status_code == 401
        key = create_key(guarded, "a", (Scope.READ,))
        assert client.get("/symbols", headers={**basic, "X-API-Key": key}).status_code == 200
        assert set(client.get("/health", headers=basic).json()) == {"status"}
        assert client.get("/health", headers={"Authorization": "Bearer cl_0_wrong"}).status_code == 401


def test_cached_response_requires_a_key(guarded: Settings) -> None:
    key = {"X-API-Key": create_key(guarded, "a", (Scope.READ,))}
    with serving(guarded) as client:
        assert client.get("/symbols", headers=key).status_code == 200
        assert client.get("/symbols").status_code == 401


def test_keys_are_stored_as_hashes_readable_by_the_owner_only(lake: Settings) -> None:
    text = create_key(lake, "a", (Scope.READ,))
    path = keys_path(lake)
    assert text.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ApiKeyError, match="keys list"):
        revoke_key(lake, "nothing")


def test_registered_key_is_stored_once_and_replaced_by_name(lake: Settings) -> None:
    both = (Scope.READ, Scope.OPERATE)
    first, second = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    assert register_key(lake, "dashboard", both, first)
    assert not register_key(lake, "dashboard", both, first)
    assert KeyRing(lake).find(first) is not None
    assert register_key(lake, "dashboard", both, second)
    ring = KeyRing(lake)
    assert ring.find(first) is None
    found = ring.find(second)
    assert found is not None
    assert (found.name, found.scopes) == ("dashboard", both)
    for guessed in ("", "secret", "a" * 64):
        with pytest.raises(ApiKeyError, match="is too weak"):
            register_key(lake, "dashboard", both, guessed)


def test_rate_limit_is_per_key(guarded: Settings) -> None:
    slow = guarded.model_copy(update={"api_rate_per_minute": 3})
    one, other = ({"X-API-Key": create_key(slow, name, (Scope.READ,))} for name in "ab")
    with serving(slow) as client:
        # Seven requests, because the window may slide in between.
        responses = [client.get("/symbols", headers=one) for _ in range(7)]
        assert [response.status_code for response in responses[:3]] == [200, 200, 200]
        limited = next(response for response in responses if response.status_code == 429)
        assert 1 <= int(limited.headers["retry-after"]) <= 60
        assert client.get("/symbols", headers=other).status_code == 200


def test_cors_allows_configured_origins_only(bars: Settings) -> None:
    with serving(bars, api_cors_origins=("https://a.example",)) as client:
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
            response = client.get("/symbols", headers={"Origin": origin})
            assert response.headers.get("access-control-allow-origin") == allowed


def rejection(url: str, **headers: str) -> Response:
    """Return the response of a rejected WebSocket handshake."""
    with pytest.raises(InvalidStatus) as rejected, connect(url, additional_headers=headers):
        pass
    return rejected.value.response


def test_websocket_is_rejected_with_the_same_problems(guarded: Settings) -> None:
    slow = guarded.model_copy(update={"api_rate_per_minute": 1})
    read, operate = (create_key(slow, scope.value, (scope,)) for scope in (Scope.READ, Scope.OPERATE))
    with serving(slow) as client:
        url = f"{client.ws_url}/ws/ohlcv?symbols=BTCUSDT"
        without = rejection(url)
        assert (without.status_code, without.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert json.loads(without.body or b"")["type"] == "urn:cryptolake:problem:unauthorized"
        assert rejection(url, Authorization=f"Bearer {operate}").status_code == 403
        with connect(url, additional_headers={"X-API-Key": read}) as socket:
            assert json.loads(socket.recv(20))["type"] == "snapshot"
        for _ in range(3):  # the window may slide in between
            client.get("/symbols", headers={"X-API-Key": read})
        again = rejection(url, Authorization=f"Bearer {read}")
        assert (again.status_code, int(again.headers["retry-after"]) > 0) == (429, True)


def test_websocket_of_another_origin_is_rejected(bars: Settings) -> None:
    with serving(bars, api_cors_origins=("https://a.example",)) as client:
        url = f"{client.ws_url}/ws/ohlcv?symbols=BTCUSDT"
        for origin in ("https://a.example", client.url):
            with connect(url, additional_headers={"Origin": origin}) as socket:
                socket.recv(20)
        for origin in ("https://b.example", "null", "http://["):
            assert rejection(url, Origin=origin).status_code == 403


def test_loopback_server_accepts_only_loopback_names(bars: Settings) -> None:
    with serving(bars, api_cors_origins=("https://charts.example",)) as api:
        responses = {
            host: api.get("/symbols", headers={"Host": host}).status_code
            for host in ("localhost:1", "[::1]:8000", "charts.example", "evil.example", "127.0.0.1.evil.example")
        }
    assert responses == {
        "localhost:1": 200,
        "[::1]:8000": 200,
        "charts.example": 200,
        "evil.example": 421,
        "127.0.0.1.evil.example": 421,
    }


def test_server_on_all_addresses_accepts_any_name(bars: Settings) -> None:
    with serving(bars, api_host="0.0.0.0") as api:
        assert api.get("/health", headers={"Host": "lake.example"}).status_code == 200
