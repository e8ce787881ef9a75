"""OAUTHBEARER for aiokafka: tokens by OAuth 2's client credentials grant (RFC 6749, section 4.4).

librdkafka and Java's client fetch theirs themselves, with the same settings. What goes wrong is told as aiokafka's own
errors, because the client then does the right thing: it gives up what is refused and tries again what is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import httpx
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed
from msgspec import DecodeError, Struct, ValidationError, json

from cryptolake_assets.settings import Settings

# The remarks "misc" below: aiokafka has no types.

TIMEOUT_S: Final = 5.0
RENEWED_AFTER: Final = 0.8
"""Part of a token's life after which a new one is fetched, as Kafka's own clients do."""
_WORTH_ANOTHER_TRY: Final = frozenset((httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS))


class TokenServerAwayError(KafkaConnectionError):  # type: ignore[misc]
    """The OAuth 2 server does not answer, or cannot just now."""


class _Token(Struct):
    """A successful answer (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float = 0.0
    """Seconds; without it the token serves one connection."""


class _Refusal(Struct):
    """An error's answer (RFC 6749, section 5.2)."""

    error: str = ""
    error_description: str = ""


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """The token of the client that the settings name; kept for the most part of its life."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that only grow."""
        self._clock = clock
        self._url = settings.kafka_oauth_token_url
        self._scope = settings.kafka_oauth_scope
        self._auth = httpx.BasicAuth(settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value())
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = float("-inf")

    async def token(self) -> str:
        """A token that is good for now.

        Raises `SaslAuthenticationFailed` when the server refuses or is none, `TokenServerAwayError` when it is away.
        """
        async with self._lock:
            if self._clock() >= self._renew_at:
                asked_at = self._clock()
                answer = await self._fetch()
                self._token = answer.access_token
                self._renew_at = asked_at + RENEWED_AFTER * answer.expires_in
            return self._token

    async def _fetch(self) -> _Token:
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        where = f"the token endpoint {self._url}"
        try:
            async with httpx.AsyncClient(auth=self._auth, timeout=TIMEOUT_S) as client:
                answer = await client.post(self._url, data=form, headers={"Accept": "application/json"})
        except httpx.HTTPError as error:
            raise TokenServerAwayError(f"{where} does not answer ({type(error).__name__}: {error})") from error
        if answer.is_server_error or answer.status_code in _WORTH_ANOTHER_TRY:
            raise TokenServerAwayError(f"{where} answered {answer.status_code}")
        if not answer.is_success:
            raise SaslAuthenticationFailed(f"{where} answered {answer.status_code}{_reason(answer.content)}")
        try:
            return json.decode(answer.content, type=_Token, strict=False)
        except (DecodeError, ValidationError) as error:
            raise SaslAuthenticationFailed(f"{where} gave no token ({error})") from error


def _reason(body: bytes) -> str:
    """What the server says of a refusal; nothing where it does not speak OAuth."""
    try:
        told = json.decode(body, type=_Refusal)
    except (DecodeError, ValidationError):
        return ""
    return "".join(f": {text[:200]}" for text in (told.error, told.error_description) if text)


class TokenHeedingConnection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that raises when the broker does not take the token.

    The broker says so in an answer without an error's code and waits for a last word (RFC 7628, section 3.2.3).
    aiokafka takes that for a success, and is then cut off without another word.
    """

    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _TokenHeeding(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _TokenHeeding(OAuthAuthenticator):  # type: ignore[misc]
    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            told = payload.decode("utf-8", errors="replace")[:300]
            raise SaslAuthenticationFailed(f"the broker does not take the token: {told}")
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step
