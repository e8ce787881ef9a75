"""The platform's broker with the access control of a cluster: TLS, users and passwords, certificates, tokens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka.admin

from cryptolake_assets.platform import kafka, probes
from cryptolake_assets.platform.properties import properties_text
from cryptolake_assets.settings import Settings
from cryptolake_tests.support import part_logs
from cryptolake_tests.support.certificates import Authority
from cryptolake_tests.support.platforms import free_ports
from cryptolake_tests.support.token_server import AUDIENCE, TokenServer, serving
from cryptolake_tests.support.waiting import wait_for

USER, PASSWORD = "lake, =writer", 'a "quoted\\" pass, =word é'
"""Contain characters that each client library escapes differently."""
TOPIC_PREFIXES = ("trades-", "binance_futures")
"""The user may create, describe, read and write topics with these prefixes, nothing else."""
GUEST = "guest"
"""A user with the same password and no rights."""
KEY_PASSWORD = "key's password"  # noqa: S105
CERTIFICATE_NAME = "lake-client"
_HOST = "127.0.0.1"
_admin: Any = confluent_kafka.admin  # its types do not name what it exports
_LISTENERS = {"SASL_SSL": "SASL_SSL", "SASL_PLAINTEXT": "SASL_PLAINTEXT", "MUTUAL": "SSL"}
"""Security protocol by client listener."""


@dataclass(frozen=True)
class SecureBroker:
    """A running broker: its ports by listener, and the files required by a client."""

    ports: dict[str, int]
    authority: Authority
    certificate: Path
    key: Path
    tokens: TokenServer

    def by_token(self, **changes: Any) -> dict[str, Any]:
        """Return the settings, by field name, for access with a token."""
        fields = {
            "kafka_sasl_mechanism": "OAUTHBEARER",
            "kafka_sasl_username": self.tokens.client_id,
            "kafka_sasl_password": self.tokens.client_secret,
            "kafka_oauth_token_url": self.tokens.token_url,
            "kafka_oauth_scope": self.tokens.scope,
        }
        return self.access(**(fields | changes))

    def access(self, listener: str = "SASL_SSL", **changes: Any) -> dict[str, Any]:
        """Return the settings, by field name, that a listener accepts, with `changes`."""
        protocol = _LISTENERS[listener]
        fields: dict[str, Any] = {
            "kafka_bootstrap_servers": f"{_HOST}:{self.ports[listener]}",
            "kafka_security_protocol": protocol,
        }
        if protocol.startswith("SASL"):
            fields |= {"kafka_sasl_username": USER, "kafka_sasl_password": PASSWORD}
        if protocol.endswith("SSL"):
            fields["kafka_ssl_ca_file"] = self.authority.ca_file
        if listener == "MUTUAL":
            fields |= {
                "kafka_ssl_cert_file": self.certificate,
                "kafka_ssl_key_file": self.key,
                "kafka_ssl_key_password": KEY_PASSWORD,
            }
        return fields | changes


@contextmanager
def secure_broker(settings: Settings) -> Iterator[SecureBroker]:
    """Run the broker of these settings' home with the additional listeners."""
    authority = Authority(settings.home / "certificates")
    certificate, key = authority.sign(CERTIFICATE_NAME, encrypted_with=KEY_PASSWORD)
    broker = SecureBroker(free_ports(_LISTENERS), authority, certificate, key, TokenServer(subject=USER))
    with serving(broker.tokens), _running(settings, broker):
        _make_users(settings)
        yield broker


@contextmanager
def _running(settings: Settings, broker: SecureBroker) -> Iterator[None]:
    for path, text in kafka.files(settings).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Java uses the last value of a repeated name.
        more = properties_text(_values(settings, broker)) if path.name == "server.properties" else ""
        path.write_text(text + more, encoding="utf-8")
    kafka.format_storage(settings)
    log = settings.home / "broker.log"
    part_logs.watch(log.parent)
    # The key URLs allowed for token validation are a Java system property, not broker configuration.
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={broker.tokens.keys_url}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            kafka.command(settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | {"JAVA_TOOL_OPTIONS": f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {allowed}"},
        )
    try:
        wait_for(lambda: _serves(process, log, broker))
        yield
    finally:
        # Its data is not used again, and an orderly stop took over a minute once.
        process.kill()
        process.wait(10)


def _serves(process: subprocess.Popen[bytes], log: Path, broker: SecureBroker) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")[-2_000:]
    return all(probes.port_open(port) for port in broker.ports.values())


def _values(settings: Settings, broker: SecureBroker) -> dict[str, object]:
    """Return the broker's properties: client listeners in addition to the platform's own ones."""
    inner = f"PLAINTEXT://{_HOST}:{settings.kafka_port}"
    outer = ",".join(f"{name}://{_HOST}:{port}" for name, port in broker.ports.items())
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    bearer = "org.apache.kafka.common.security.oauthbearer"
    values: dict[str, object] = {
        "listeners": f"{inner},{outer},CONTROLLER://{_HOST}:{settings.kafka_controller_port}",
        "advertised.listeners": f"{inner},{outer}",
        "listener.security.protocol.map": ",".join(
            f"{name}:{protocol}"
            for name, protocol in {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **_LISTENERS}.items()
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": broker.authority.keystore("broker"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": broker.authority.ca_file,
        "listener.name.mutual.ssl.client.auth": "required",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:CN={CERTIFICATE_NAME};User:plain",
    }
    for listener in ("sasl_ssl", "sasl_plaintext"):
        prefix = f"listener.name.{listener}"
        values |= {
            f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{prefix}.plain.sasl.jaas.config": f'{plain} user_plain="plain-secret";',
            f"{prefix}.scram-sha-256.sasl.jaas.config": scram,
            f"{prefix}.scram-sha-512.sasl.jaas.config": scram,
            f"{prefix}.oauthbearer.sasl.jaas.config": f"{bearer}.OAuthBearerLoginModule required;",
            f"{prefix}.oauthbearer.sasl.server.callback.handler.class": f"{bearer}.OAuthBearerValidatorCallbackHandler",
            f"{prefix}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": broker.tokens.keys_url,
            f"{prefix}.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
        }
    return values


def _make_users(settings: Settings) -> None:
    admin = _admin.AdminClient({"bootstrap.servers": f"{_HOST}:{settings.kafka_port}"})
    # One request may alter each user only once.
    for mechanism in (_admin.ScramMechanism.SCRAM_SHA_256, _admin.ScramMechanism.SCRAM_SHA_512):
        info = _admin.ScramCredentialInfo(mechanism, 4096)
        changes = [_admin.UserScramCredentialUpsertion(user, info, PASSWORD.encode()) for user in (USER, GUEST)]
        for result in admin.alter_user_scram_credentials(changes).values():
            result.result(30)
    rights = [
        _admin.AclBinding(
            _admin.ResourceType.TOPIC,
            prefix,
            _admin.ResourcePatternType.PREFIXED,
            f"User:{USER}",
            "*",
            operation,
            _admin.AclPermissionType.ALLOW,
        )
        for prefix in TOPIC_PREFIXES
        for operation in (
            _admin.AclOperation.CREATE,
            _admin.AclOperation.DESCRIBE,
            _admin.AclOperation.READ,
            _admin.AclOperation.WRITE,
        )
    ]
    for result in admin.create_acls(rights).values():
        result.result(30)
