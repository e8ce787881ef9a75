"""OAUTHBEARER for aiokafka: tokens by OAuth 2's client credentials grant (RFC 6749, section 4.4).

librdkafka and Java's client fetch their tokens themselves, with the same settings. Failures are raised as aiokafka's
own errors, so that the client gives up on rejections and retries after outages.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import httpx
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed
from msgspec import Struct, json

from cryptolake_assets.settings import Settings

# The `misc` ignores below: aiokafka has no types.

# For the whole answer: shorter than a broker probe, so that the probe can tell which of the two does not answer.
TIMEOUT_S: Final = 3.0
# How long one token serves new connections: many are opened at a time, and a revoked token is soon no longer presented.
SHOWN_FOR_S: Final = 60.0
RENEWED_AFTER: Final = 0.8  # the same as a fraction of the token's lifetime, for short lifetimes
_WORTH_ANOTHER_TRY: Final = frozenset((httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS))


class TokenServerAwayError(KafkaConnectionError):  # type: ignore[misc]
    """The OAuth 2 server does not answer, or is unavailable for now."""


class _Token(Struct):
    """A successful response (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float | None = None  # seconds; without it the token serves one connection


class _TokenRejection(Struct):
    """An error response (RFC 6749, section 5.2)."""

    error: str = ""
    error_description: str = ""


_Client = tuple[str, str, str, str]
# Tokens of this process, by client: the token, and until when it is presented.
_given: dict[_Client, tuple[str, float]] = {}


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """Provides tokens for the client of the settings."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._url = settings.kafka_oauth_token_url
        self._id, self._secret = settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
        self._scope = settings.kafka_oauth_scope
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        """Return a token that is valid for now.

        Raises `SaslAuthenticationFailed` if the server rejects the client or is no token server, `TokenServerAwayError`
        if it is unavailable.
        """
        client = self._url, self._id, self._secret, self._scope
        async with self._lock:
            token, shown_until = _given.get(client, ("", float("-inf")))
            if self._clock() >= shown_until:
                asked_at = self._clock()
                answer = await self._fetch()
                token = answer.access_token
                _given[client] = token, asked_at + min(SHOWN_FOR_S, RENEWED_AFTER * (answer.expires_in or 0.0))
            return token

    async def _fetch(self) -> _Token:
        where = f"the token endpoint {self._url}"
        answer = await self._ask(where)
        if answer.is_server_error or answer.status_code in _WORTH_ANOTHER_TRY:
            raise TokenServerAwayError(f"{where} answered {answer.status_code}")
        if not answer.is_success:
            raise SaslAuthenticationFailed(f"{where} answered {answer.status_code}{_reason(answer.content)}")
        try:
            return json.decode(answer.content, type=_Token, strict=False)
        except (ValueError, RecursionError) as error:
            raise SaslAuthenticationFailed(f"{where} gave no token ({error})") from error

    async def _ask(self, where: str) -> httpx.Response:
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        try:
            async with asyncio.timeout(TIMEOUT_S), httpx.AsyncClient(verify=_trusted(), timeout=TIMEOUT_S) as client:
                return await client.post(
                    self._url, data=form, auth=(self._id, self._secret), headers={"Accept": "application/json"}
                )
        except TimeoutError as error:
            raise TokenServerAwayError(f"{where} did not answer in {TIMEOUT_S:.0f} s") from error
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise SaslAuthenticationFailed(f"the certificate of {where} is not trusted ({error})") from error
            raise TokenServerAwayError(f"{where} does not answer ({type(error).__name__}: {error})") from error


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """Return a TLS context with the system's CAs, as for the brokers; loading them takes longer than a request."""
    return ssl.create_default_context()


def _reason(body: bytes) -> str:
    """Return the server's reason for a rejection; empty if it does not speak OAuth."""
    try:
        response = json.decode(body, type=_TokenRejection)
    except (ValueError, RecursionError):
        return ""
    return "".join(f": {' '.join(text.split())[:200]}" for text in (response.error, response.error_description) if text)


class TokenHeedingConnection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that raises if the broker rejects the token.

    The broker sends a response without an error code and waits for a final message (RFC 7628, section 3.2.3). aiokafka
    takes that for success, and the broker then disconnects without another word.
    """

    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _TokenHeeding(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _TokenHeeding(OAuthAuthenticator):  # type: ignore[misc]
    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            response = payload.decode("utf-8", errors="replace")[:300]
            raise SaslAuthenticationFailed(f"the broker does not take the token: {response}")
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step
