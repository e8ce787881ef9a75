"""Tokens for aiokafka: kept while they are good, and what is told when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import SaslAuthenticationFailed

from cryptolake_assets.platform.servers import free_port
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_assets.stream.oauth import ClientCredentials, TokenServerAwayError
from cryptolake_tests.token_server import TokenServer, serving


@pytest.fixture(scope="module")
def running() -> Iterator[TokenServer]:
    server = TokenServer(subject="lake")
    with serving(server):
        yield server


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


async def test_a_token_is_kept_for_the_most_part_of_its_life(server: TokenServer) -> None:
    clock, life_s = 1_000.0, 500
    server.life_s = life_s
    tokens = ClientCredentials(client_of(server), lambda: clock)
    first = await tokens.token()
    assert first.count(".") == 2
    clock += 0.79 * life_s
    assert await tokens.token() == first
    clock += 0.02 * life_s
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


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b'{"token": "x"}', b'{"access_token": 1}', b"[]"])
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
