"""OAUTHBEARER for aiokafka: tokens by OAuth 2's client credentials grant (RFC 6749, section 4.4).

librdkafka and Java's client fetch their tokens themselves, with the same settings. Failures are raised as aiokafka's
errors, so that the client stops on rejections and retries after outages.
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

# For the entire response: shorter than a broker probe, so that the probe shows which of the two does not respond.
TIMEOUT_S: Final = 3.0
# New connections reuse a token for this long: many are opened at a time, and a revoked token must soon be dropped.
TOKEN_REUSE_S: Final = 60.0
RENEWAL_FRACTION: Final = 0.8  # the same as a fraction of the token's lifetime, which applies to short lifetimes
_RETRYABLE_STATUS: Final = frozenset((httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS))


class TokenServerUnavailableError(KafkaConnectionError):  # type: ignore[misc]
    """The OAuth 2 server is unreachable or temporarily unavailable."""


class _Token(Struct):
    """A successful response (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float | None = None  # seconds; without it, only one connection uses the token


class _TokenRejection(Struct):
    """An error response (RFC 6749, section 5.2)."""

    error: str = ""
    error_description: str = ""


_Client = tuple[str, str, str, str]
# Tokens of this process by client, each with the end of its reuse (monotonic seconds).
_token_cache: dict[_Client, tuple[str, float]] = {}


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
        """Return a token that is valid now.

        Raises `SaslAuthenticationFailed` if the server rejects the client or is not a token server, and
        `TokenServerUnavailableError` if it is unavailable.
        """
        client = self._url, self._id, self._secret, self._scope
        async with self._lock:
            token, reuse_until = _token_cache.get(client, ("", float("-inf")))
            if self._clock() >= reuse_until:
                requested_at = self._clock()
                issued = await self._fetch()
                token = issued.access_token
                reuse_s = min(TOKEN_REUSE_S, RENEWAL_FRACTION * (issued.expires_in or 0.0))
                _token_cache[client] = token, requested_at + reuse_s
            return token

    async def _fetch(self) -> _Token:
        endpoint = f"the token endpoint {self._url}"
        response = await self._post(endpoint)
        status = response.status_code
        if response.is_server_error or status in _RETRYABLE_STATUS:
            raise TokenServerUnavailableError(f"{endpoint} returned status {status}")
        if not response.is_success:
            raise SaslAuthenticationFailed(f"{endpoint} returned status {status}{_reason(response.content)}")
        try:
            return json.decode(response.content, type=_Token, strict=False)
        except (ValueError, RecursionError) as error:
            raise SaslAuthenticationFailed(f"{endpoint} returned no token ({error})") from error

    async def _post(self, endpoint: str) -> httpx.Response:
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpx.AsyncClient(verify=_tls_context(), timeout=TIMEOUT_S) as client,
            ):
                return await client.post(
                    self._url, data=form, auth=(self._id, self._secret), headers={"Accept": "application/json"}
                )
        except TimeoutError as error:
            raise TokenServerUnavailableError(f"{endpoint} did not respond within {TIMEOUT_S:.0f} s") from error
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise SaslAuthenticationFailed(f"the certificate of {endpoint} is not trusted ({error})") from error
            raise TokenServerUnavailableError(f"{endpoint} is unreachable ({type(error).__name__}: {error})") from error


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Return a TLS context with the system's CAs, as for the brokers. Cached: loading takes longer than a request."""
    return ssl.create_default_context()


def _reason(body: bytes) -> str:
    """Return the server's reason for a rejection; empty if the response is not OAuth."""
    try:
        response = json.decode(body, type=_TokenRejection)
    except (ValueError, RecursionError):
        return ""
    return "".join(f": {' '.join(text.split())[:200]}" for text in (response.error, response.error_description) if text)


class TokenCheckingConnection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that raises if the broker rejects the token.

    The broker sends a response without an error code and waits for a final message (RFC 7628, section 3.2.3). aiokafka
    treats that as success, and the broker then disconnects without an error.
    """

    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _TokenCheckingAuthenticator(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _TokenCheckingAuthenticator(OAuthAuthenticator):  # type: ignore[misc]
    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            response = payload.decode("utf-8", errors="replace")[:300]
            raise SaslAuthenticationFailed(f"the broker rejected the token: {response}")
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step
