"""Settings of Kafka: brokers, client authentication, and topic creation."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from cryptolake_assets.settings.ingest import named

_SERVER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]+):(\d{1,5})")
_MAX_PORT = 65_535
_TOKEN_URL = re.compile(r"https?://[^\s/@?#]+(?:/[^\s?#]*)?")


class SecurityProtocol(StrEnum):
    """Security protocol of the brokers' listener."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def has_tls(self) -> bool:
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def has_sasl(self) -> bool:
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


class SaslMechanism(StrEnum):
    """SASL mechanism; with OAUTHBEARER an OAuth 2 server checks the credentials instead of the brokers."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"
    OAUTHBEARER = "OAUTHBEARER"


class KafkaSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    kafka_bootstrap_servers: str = named(
        "KAFKA_BOOTSTRAP_SERVERS",
        "",
        "Kafka brokers, host:port, separated by commas. Empty: a local broker started by CryptoLake.",
    )
    kafka_security_protocol: SecurityProtocol = named(
        "CRYPTOLAKE_KAFKA_SECURITY_PROTOCOL",
        SecurityProtocol.PLAINTEXT,
        "Security protocol of the brokers: `PLAINTEXT`, `SSL` (TLS), `SASL_PLAINTEXT` or `SASL_SSL` (SASL credentials "
        "over TLS). The local broker uses PLAINTEXT, on loopback.",
    )
    kafka_sasl_mechanism: SaslMechanism = named(
        "CRYPTOLAKE_KAFKA_SASL_MECHANISM",
        SaslMechanism.SCRAM_SHA_512,
        "SASL mechanism: `SCRAM-SHA-512`, `SCRAM-SHA-256`, `PLAIN` (sends the password itself), or `OAUTHBEARER` (user "
        "and password are a client's id and secret, exchanged for a token at an OAuth 2 server).",
    )
    kafka_sasl_username: str = named(
        "CRYPTOLAKE_KAFKA_SASL_USERNAME", "", "SASL user; with `OAUTHBEARER` the client id."
    )
    kafka_sasl_password: SecretStr = named(
        "CRYPTOLAKE_KAFKA_SASL_PASSWORD", SecretStr(""), "SASL password; with `OAUTHBEARER` the client secret."
    )
    kafka_oauth_token_url: str = named(
        "CRYPTOLAKE_KAFKA_OAUTH_TOKEN_URL",
        "",
        "Token endpoint of the OAuth 2 server (grant `client_credentials`), for `OAUTHBEARER`.",
    )
    kafka_oauth_scope: str = named(
        "CRYPTOLAKE_KAFKA_OAUTH_SCOPE",
        "",
        "Requested OAuth 2 scopes, separated by spaces. Empty: the server's default.",
    )
    kafka_ssl_ca_file: Path | None = named(
        "CRYPTOLAKE_KAFKA_SSL_CA_FILE",
        None,
        "PEM file of the CA certificates that sign the brokers' certificates. Empty: the trust store of the system "
        "(for Spark, of Java). Relative paths start at the project's root.",
    )
    kafka_ssl_cert_file: Path | None = named(
        "CRYPTOLAKE_KAFKA_SSL_CERT_FILE",
        None,
        "PEM file of the client certificate and its intermediate certificates, if the brokers require one.",
    )
    kafka_ssl_key_file: Path | None = named(
        "CRYPTOLAKE_KAFKA_SSL_KEY_FILE", None, "PEM file of the client certificate's private key; may be the same file."
    )
    kafka_ssl_key_password: SecretStr = named(
        "CRYPTOLAKE_KAFKA_SSL_KEY_PASSWORD",
        SecretStr(""),
        "Password of the private key. Empty: the key is not encrypted.",
    )
    kafka_topic_futures: str = named(
        "KAFKA_TOPIC_FUTURES",
        "binance_futures_realtime",
        "Kafka topic of the futures trades; the topic of rejected frames has the suffix `_rejected`.",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
    )
    kafka_topic_spot: str = named(
        "KAFKA_TOPIC_SPOT",
        "binance_spot_realtime",
        "Kafka topic of the Spot trades; the topic of rejected frames has the suffix `_rejected`.",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
    )
    kafka_partitions: int = named(
        "CRYPTOLAKE_KAFKA_PARTITIONS", 4, "Number of partitions of new topics.", ge=1, le=10_000
    )
    kafka_replication: int = named("CRYPTOLAKE_KAFKA_REPLICATION", 1, "Replication factor of new topics.", ge=1, le=9)

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _valid_servers(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",") if server.strip()]
        for server in servers:
            match = _SERVER.fullmatch(server)
            if match is None or not 1 <= int(match.group(1)) <= _MAX_PORT:
                raise ValueError(f"{server!r} is not host:port, such as broker.example:9093")
        return ",".join(servers)

    @field_validator("kafka_oauth_token_url")
    @classmethod
    def _valid_token_url(cls, value: str) -> str:
        """Reject URLs that could contain a secret, because messages include the URL."""
        if value and not (_TOKEN_URL.fullmatch(value) and urlsplit(value).port != 0):
            raise ValueError("must be http(s)://host[:port]/path, without user, query or fragment")
        return value

    @field_validator("kafka_sasl_username", "kafka_oauth_scope")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("must not contain newlines or other control characters")
        return value

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        """Reject topics that would mix the families' trades, or trades with rejected frames."""
        first, second = self.kafka_topic_futures, self.kafka_topic_spot
        if len({first, f"{first}_rejected", second, f"{second}_rejected"}) < 4:
            names = f"{_variable('kafka_topic_futures')} ({first}) and {_variable('kafka_topic_spot')} ({second})"
            raise ValueError(f"{names} must be two topics, and neither the other's topic of rejected frames")
        return self

    @model_validator(mode="after")
    def _access_is_consistent(self) -> Self:
        """Reject combinations of settings that cannot work, or would be ignored without an error."""
        protocol = f"{_variable('kafka_security_protocol')} is {self.kafka_security_protocol}"
        if self.kafka_security_protocol is not SecurityProtocol.PLAINTEXT and not self.kafka_bootstrap_servers:
            raise ValueError(
                f"{protocol}, but {_variable('kafka_bootstrap_servers')} is empty: the local broker uses PLAINTEXT. "
                "Set your brokers, or use PLAINTEXT"
            )
        user = ("kafka_sasl_username", "kafka_sasl_password")
        if self.kafka_security_protocol.has_sasl:
            if missing := [_variable(field) for field in user if not self._is_set(field)]:
                raise ValueError(f"{protocol}, which requires SASL credentials: set {' and '.join(missing)}")
        elif unused := [_variable(field) for field in user if self._is_set(field)]:
            raise ValueError(
                f"{protocol}, which does not use SASL credentials: use SASL_SSL, or unset {' and '.join(unused)}"
            )
        self._check_oauth()
        files = ("kafka_ssl_ca_file", "kafka_ssl_cert_file", "kafka_ssl_key_file", "kafka_ssl_key_password")
        unused = [_variable(field) for field in files if self._is_set(field)]
        if unused and not self.kafka_security_protocol.has_tls:
            raise ValueError(
                f"{protocol}, which does not use TLS: use {'SASL_' * self.kafka_security_protocol.has_sasl}SSL, "
                f"or unset {' and '.join(unused)}"
            )
        self._check_client_certificate()
        return self

    @property
    def kafka_uses_oauth(self) -> bool:
        """Return whether clients authenticate to the brokers with a token of an OAuth 2 server."""
        return self.kafka_security_protocol.has_sasl and self.kafka_sasl_mechanism is SaslMechanism.OAUTHBEARER

    def _check_oauth(self) -> None:
        mechanism = f"{_variable('kafka_sasl_mechanism')} is {self.kafka_sasl_mechanism}"
        if self.kafka_uses_oauth:
            if not self._is_set("kafka_oauth_token_url"):
                raise ValueError(
                    f"{mechanism}, which requires a token endpoint: set {_variable('kafka_oauth_token_url')}"
                )
            if ":" in self.kafka_sasl_username:
                raise ValueError(
                    f"{mechanism}: {_variable('kafka_sasl_username')} contains a colon, which HTTP Basic forbids"
                )
            return
        fields = ("kafka_oauth_token_url", "kafka_oauth_scope")
        if unused := [_variable(field) for field in fields if self._is_set(field)]:
            raise ValueError(
                f"{' and '.join(unused)} would be ignored: {_variable('kafka_security_protocol')} is "
                f"{self.kafka_security_protocol} and {mechanism}. To use tokens, set these to SASL_SSL and "
                f"{SaslMechanism.OAUTHBEARER}"
            )

    def _check_client_certificate(self) -> None:
        certificate, key = (self._is_set(field) for field in ("kafka_ssl_cert_file", "kafka_ssl_key_file"))
        names = [_variable(field) for field in ("kafka_ssl_cert_file", "kafka_ssl_key_file")]
        if certificate != key:
            given, missing = names if certificate else reversed(names)
            raise ValueError(
                f"{given} is set, but {missing} is not: a client certificate requires its private key. Set both (they "
                "may be the same file), or neither"
            )
        if self._is_set("kafka_ssl_key_password") and not key:
            raise ValueError(f"{_variable('kafka_ssl_key_password')} is set, but {names[1]} is not: set the key file")

    def _is_set(self, field: str) -> bool:
        value = getattr(self, field)
        return bool(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _variable(field: str) -> str:
    return str(KafkaSettings.model_fields[field].validation_alias)
