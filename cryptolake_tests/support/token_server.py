"""An OAuth 2 server that issues signed tokens to one client and publishes the key to validate them."""

from __future__ import annotations

import base64
import json
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cryptolake_tests.support import web

KEY_ID: Final = "one"
AUDIENCE: Final = "kafka"


@dataclass
class TokenServer:
    """Configuration and state of the server; tests change it while it runs."""

    subject: str
    """Principal of the client at the brokers."""
    client_id: str = "lake-client"
    client_secret: str = 'a "secret-88" =é'  # noqa: S105
    scope: str = "kafka.write kafka.read"
    audience: str = AUDIENCE
    token: str = ""
    """Token to issue; empty: a new signed one each time."""
    life_s: int | None = 300
    """Lifetime of tokens in s; None: the response has no `expires_in`."""
    status: int = 200
    body: bytes = b""
    """Response body instead of a token; the key is published anyway."""
    url: str = ""
    issued: int = 0
    """Number of issued tokens."""
    _key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65_537, 2048))

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    @property
    def keys_url(self) -> str:
        return f"{self.url}/keys"

    def keys(self) -> dict[str, Any]:
        """Return the public key as a JSON Web Key Set (RFC 7517)."""
        public = self._key.public_key().public_numbers()
        n = _base64(public.n.to_bytes(256))
        return {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": KEY_ID, "n": n, "e": "AQAB"}]}

    def respond(self, authorization: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body for a token request."""
        if self.status != 200 or self.body:
            return self.status, self.body
        status, values = self._grant(authorization, form)
        return status, json.dumps(values).encode()

    def _grant(self, authorization: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Grant client credentials (RFC 6749, section 4.4)."""
        known = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        in_form = (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.client_secret)
        if authorization != f"Basic {known}" and not in_form:  # header or form (RFC 6749, section 2.3.1)
            return 401, {"error": "invalid_client", "error_description": "no such client, or another secret"}
        if form.get("grant_type") != "client_credentials" or form.get("scope") != self.scope:
            return 400, {"error": "invalid_scope"}
        self.issued += 1
        response: dict[str, Any] = {"access_token": self.token or self._signed(), "token_type": "Bearer"}
        return 200, response if self.life_s is None else {**response, "expires_in": self.life_s}

    def _signed(self) -> str:
        """Return a signed JSON Web Token (RFC 7519)."""
        now = int(time.time())
        claims = {"sub": self.subject, "aud": self.audience, "iss": self.url, "scope": self.scope, "iat": now}
        claims |= {"exp": now + (self.life_s or 300), "jti": uuid.uuid4().hex}
        head = {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        return f"{text}.{_base64(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@contextmanager
def serving(tokens: TokenServer, tls: ssl.SSLContext | None = None) -> Iterator[None]:
    """Serve on loopback, at `tokens.url`, until the end of the block."""

    class Handler(web.QuietHandler):
        def do_GET(self) -> None:
            self.respond(200, json.dumps(tokens.keys()).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.respond(*tokens.respond(self.headers.get("Authorization", ""), form))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    tokens.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    with web.serving(server):
        yield
