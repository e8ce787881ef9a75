"""Tokens for aiokafka: kept while they are good, and what is told when there is none."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import SaslAuthenticationFailed

from cryptolake_assets.kafka import oauth
from cryptolake_assets.kafka.oauth import ClientCredentials, TokenServerAwayError
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.certificates import Authority
from cryptolake_tests.support.servers import free_port
from cryptolake_tests.support.token_server import TokenServer, serving


@pytest.fixture(scope="module")
def running() -> Iterator[TokenServer]:
    server = TokenServer(subject="lake")
    with serving(server):
        yield server


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "_given", {})


@pytest.fixture
def server(running: TokenServer) -> Iterator[TokenServer]:
    """The server as it was at the start, again after the test."""
    before = replace(running)
    yield running
    vars(running).update(vars(before))


def client_of(server: TokenServer, **changes: Any) -> Settings:
    fields = {
        "kafka_bootstrap_servers": "broker.example:9093",
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": "OAUTHBEARER",
        "kafka_sasl_username": server.client_id,
        "kafka_sasl_password": server.client_secret,
        "kafka_oauth_token_url": server.token_url,
        "kafka_oauth_scope": server.scope,
    }
    return load_settings(**(fields | changes))


@pytest.mark.parametrize(("life_s", "shown_for_s"), [(3_600, 60.0), (50, 40.0)])
async def test_a_token_serves_many_connections_but_not_for_long(
    server: TokenServer, life_s: int, shown_for_s: float
) -> None:
    clock = 1_000.0 * life_s
    server.life_s = life_s
    tokens = ClientCredentials(client_of(server), lambda: clock)
    first = await tokens.token()
    assert first.count(".") == 2
    clock += shown_for_s - 1
    assert await tokens.token() == first
    assert await ClientCredentials(client_of(server), lambda: clock).token() == first, "another client's as well"
    clock += 2
    assert await tokens.token() != first
    assert server.given == 2


async def test_a_token_of_unknown_life_serves_once(server: TokenServer) -> None:
    server.life_s = None
    tokens = ClientCredentials(client_of(server))
    assert await tokens.token() != await tokens.token()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"kafka_sasl_password": "another-word-77"},
            "answered 401: invalid_client: no such client",
        ),
        ({"kafka_oauth_scope": "admin"}, r"answered 400: invalid_scope$"),
    ],
)
async def test_a_refusal_tells_what_the_server_says(server: TokenServer, wrong: dict[str, str], told: str) -> None:
    with pytest.raises(SaslAuthenticationFailed, match=told) as raised:
        await ClientCredentials(client_of(server, **wrong)).token()
    assert "another-word-77" not in str(raised.value)


NO_TOKENS = [b"<html>Sign in</html>", b'{"token": "x"}', b'{"access_token": 1}', b"[]", b'{"access_token": "\xff"}']


@pytest.mark.parametrize("body", NO_TOKENS)
async def test_what_is_no_token_server_is_told(server: TokenServer, body: bytes) -> None:
    server.body = body
    with pytest.raises(SaslAuthenticationFailed, match="gave no token"):
        await ClientCredentials(client_of(server)).token()
    server.status = 404
    with pytest.raises(SaslAuthenticationFailed, match=r"answered 404$"):
        await ClientCredentials(client_of(server)).token()


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_server_that_cannot_just_now_is_away(server: TokenServer, status: int) -> None:
    server.status = status
    tokens = ClientCredentials(client_of(server))
    with pytest.raises(TokenServerAwayError, match=f"answered {status}"):
        await tokens.token()
    server.status = 200
    assert await tokens.token()


async def test_a_server_that_does_not_answer_is_away(server: TokenServer) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/token"
    with pytest.raises(TokenServerAwayError, match=f"{nowhere} does not answer"):
        await ClientCredentials(client_of(server, kafka_oauth_token_url=nowhere)).token()


async def test_a_server_that_says_nothing_is_away(server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        with pytest.raises(TokenServerAwayError, match="did not answer"):
            await ClientCredentials(client_of(server, kafka_oauth_token_url=url)).token()


async def test_a_certificate_that_nobody_trusts_is_a_refusal(
    server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that the system trusts is none."""
    authority = Authority(tmp_path)
    certificate, key = authority.sign("identity")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    other = TokenServer(subject="lake")
    with serving(other, context):
        oauth._trusted.cache_clear()
        with pytest.raises(SaslAuthenticationFailed, match=r"certificate of .* is not trusted"):
            await ClientCredentials(client_of(other)).token()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
        oauth._trusted.cache_clear()
        assert await ClientCredentials(client_of(other)).token()
    oauth._trusted.cache_clear()
