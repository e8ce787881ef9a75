"""Tokens for aiokafka: reuse while they are valid, and errors of the token server."""

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
from cryptolake_assets.kafka.oauth import ClientCredentials, TokenServerUnavailableError
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
def empty_token_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "_token_cache", {})


@pytest.fixture
def server(running: TokenServer) -> Iterator[TokenServer]:
    """The running server; its state is restored after the test."""
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


@pytest.mark.parametrize(("life_s", "reuse_s"), [(3_600, 60.0), (50, 40.0)])
async def test_token_is_reused_for_a_limited_time(server: TokenServer, life_s: int, reuse_s: float) -> None:
    clock = 1_000.0 * life_s
    server.life_s = life_s
    tokens = ClientCredentials(client_of(server), lambda: clock)
    first = await tokens.token()
    assert first.count(".") == 2
    clock += reuse_s - 1
    assert await tokens.token() == first
    assert await ClientCredentials(client_of(server), lambda: clock).token() == first, (
        "all providers of a client share it"
    )
    clock += 2
    assert await tokens.token() != first
    assert server.issued == 2


async def test_token_of_unknown_lifetime_is_not_reused(server: TokenServer) -> None:
    server.life_s = None
    tokens = ClientCredentials(client_of(server))
    assert await tokens.token() != await tokens.token()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"kafka_sasl_password": "another-word-77"},
            "returned status 401: invalid_client: no such client",
        ),
        ({"kafka_oauth_scope": "admin"}, r"returned status 400: invalid_scope$"),
    ],
)
async def test_rejection_contains_the_servers_reason(server: TokenServer, wrong: dict[str, str], message: str) -> None:
    with pytest.raises(SaslAuthenticationFailed, match=message) as raised:
        await ClientCredentials(client_of(server, **wrong)).token()
    assert "another-word-77" not in str(raised.value)


INVALID_RESPONSES = [
    b"<html>Sign in</html>",
    b'{"token": "x"}',
    b'{"access_token": 1}',
    b"[]",
    b'{"access_token": "\xff"}',
]


@pytest.mark.parametrize("body", INVALID_RESPONSES)
async def test_response_without_a_token_is_an_error(server: TokenServer, body: bytes) -> None:
    server.body = body
    with pytest.raises(SaslAuthenticationFailed, match="returned no token"):
        await ClientCredentials(client_of(server)).token()
    server.status = 404
    with pytest.raises(SaslAuthenticationFailed, match=r"returned status 404$"):
        await ClientCredentials(client_of(server)).token()


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_retryable_status_means_unavailable(server: TokenServer, status: int) -> None:
    server.status = status
    tokens = ClientCredentials(client_of(server))
    with pytest.raises(TokenServerUnavailableError, match=f"returned status {status}"):
        await tokens.token()
    server.status = 200
    assert await tokens.token()


async def test_unreachable_server_is_unavailable(server: TokenServer) -> None:
    url = f"http://127.0.0.1:{free_port()}/token"
    with pytest.raises(TokenServerUnavailableError, match=f"{url} is unreachable"):
        await ClientCredentials(client_of(server, kafka_oauth_token_url=url)).token()


async def test_server_without_a_response_is_unavailable(server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as unresponsive:
        url = f"http://127.0.0.1:{unresponsive.getsockname()[1]}/token"
        with pytest.raises(TokenServerUnavailableError, match="did not respond"):
            await ClientCredentials(client_of(server, kafka_oauth_token_url=url)).token()


async def test_untrusted_certificate_is_rejected_and_a_trusted_one_accepted(
    server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("identity")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    other = TokenServer(subject="lake")
    with serving(other, context):
        oauth._tls_context.cache_clear()
        with pytest.raises(SaslAuthenticationFailed, match=r"certificate of .* is not trusted"):
            await ClientCredentials(client_of(other)).token()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
        oauth._tls_context.cache_clear()
        assert await ClientCredentials(client_of(other)).token()
    oauth._tls_context.cache_clear()
