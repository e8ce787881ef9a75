"""OAUTHBEARER for aiokafka: tokens by OAuth 2's client credentials grant (RFC 6749, section 4.4).

librdkafka and Java's client fetch theirs themselves, with the same settings. What goes wrong is told as aiokafka's own
errors, because the client then does the right thing: it gives up what is refused and tries again what is away.
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

# The remarks "misc" below: aiokafka has no types.

TIMEOUT_S: Final = 3.0
"""For an answer in all: less than a knock at a broker may take, so that it is known who does not answer."""
SHOWN_FOR_S: Final = 60.0
"""How long one token serves new connections: many are opened at a time, and one that was revoked is soon not shown any
more."""
RENEWED_AFTER: Final = 0.8
"""The same as a part of its life, where that is short."""
_WORTH_ANOTHER_TRY: Final = frozenset((httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS))


class TokenServerAwayError(KafkaConnectionError):  # type: ignore[misc]
    """The OAuth 2 server does not answer, or cannot just now."""


class _Token(Struct):
    """A successful answer (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float | None = None
    """Seconds; without it the token serves one connection."""


class _TokenRejection(Struct):
    """An error's answer (RFC 6749, section 5.2)."""

    error: str = ""
    error_description: str = ""


_Client = tuple[str, str, str, str]
_given: dict[_Client, tuple[str, float]] = {}
"""Of this process, by client: its token, and until when it is shown."""


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """The token of the client that the settings name."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that only grow."""
        self._clock = clock
        self._url = settings.kafka_oauth_token_url
        self._id, self._secret = settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
        self._scope = settings.kafka_oauth_scope
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        """A token that is good for now.

        Raises `SaslAuthenticationFailed` when the server refuses or is none, `TokenServerAwayError` when it is away.
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
    """The CAs that the system trusts, as for the brokers; to load them takes longer than a request."""
    return ssl.create_default_context()


def _reason(body: bytes) -> str:
    """What the server says of a refusal; nothing where it does not speak OAuth."""
    try:
        response = json.decode(body, type=_TokenRejection)
    except (ValueError, RecursionError):
        return ""
    return "".join(f": {' '.join(text.split())[:200]}" for text in (response.error, response.error_description) if text)


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
            response = payload.decode("utf-8", errors="replace")[:300]
            raise SaslAuthenticationFailed(f"the broker does not take the token: {response}")
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step
