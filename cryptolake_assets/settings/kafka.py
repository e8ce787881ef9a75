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
    """What a listener of the brokers speaks."""

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
    """How a user and a password are shown to the brokers, or to whom they are shown instead."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"
    OAUTHBEARER = "OAUTHBEARER"


class KafkaSettings(BaseSettings):
    """Part of `settings.Settings`, which says where values come from."""

    kafka_bootstrap_servers: str = named(
        "KAFKA_BOOTSTRAP_SERVERS",
        "",
        "Brokers, host:port separated by commas. Empty: the local broker that CryptoLake starts.",
    )
    kafka_security_protocol: SecurityProtocol = named(
        "CRYPTOLAKE_KAFKA_SECURITY_PROTOCOL",
        SecurityProtocol.PLAINTEXT,
        "What the brokers' listener speaks: `PLAINTEXT`, `SSL` (TLS), `SASL_PLAINTEXT` or `SASL_SSL` (a user and a "
        "password, over TLS). The local broker speaks PLAINTEXT, on loopback.",
    )
    kafka_sasl_mechanism: SaslMechanism = named(
        "CRYPTOLAKE_KAFKA_SASL_MECHANISM",
        SaslMechanism.SCRAM_SHA_512,
        "How user and password are shown: `SCRAM-SHA-512`, `SCRAM-SHA-256`, or `PLAIN` (the password itself is sent). "
        "With `OAUTHBEARER` they are a client's id and secret, and are shown to an OAuth 2 server for a token.",
    )
    kafka_sasl_username: str = named(
        "CRYPTOLAKE_KAFKA_SASL_USERNAME", "", "User at the brokers, for SASL; with `OAUTHBEARER` the client's id."
    )
    kafka_sasl_password: SecretStr = named(
        "CRYPTOLAKE_KAFKA_SASL_PASSWORD", SecretStr(""), "That user's password; with `OAUTHBEARER` the client's secret."
    )
    kafka_oauth_token_url: str = named(
        "CRYPTOLAKE_KAFKA_OAUTH_TOKEN_URL",
        "",
        "Token endpoint of the OAuth 2 server (grant `client_credentials`), for `OAUTHBEARER`.",
    )
    kafka_oauth_scope: str = named(
        "CRYPTOLAKE_KAFKA_OAUTH_SCOPE", "", "Scope to ask for there, separated by spaces. Empty: the server's default."
    )
    kafka_ssl_ca_file: Path | None = named(
        "CRYPTOLAKE_KAFKA_SSL_CA_FILE",
        None,
        "PEM file of the CA certificates that the brokers' certificates are held against. Empty: those that the system "
        "(for Spark, Java) trusts. Relative paths start at the project's root.",
    )
    kafka_ssl_cert_file: Path | None = named(
        "CRYPTOLAKE_KAFKA_SSL_CERT_FILE",
        None,
        "PEM file of the client's own certificate, and of those between it and the CA, where the brokers ask for one.",
    )
    kafka_ssl_key_file: Path | None = named(
        "CRYPTOLAKE_KAFKA_SSL_KEY_FILE", None, "PEM file of that certificate's private key; may be the same file."
    )
    kafka_ssl_key_password: SecretStr = named(
        "CRYPTOLAKE_KAFKA_SSL_KEY_PASSWORD", SecretStr(""), "Password of that key. Empty: it is not encrypted."
    )
    kafka_topic_futures: str = named(
        "KAFKA_TOPIC_FUTURES",
        "binance_futures_realtime",
        "Topic of the trades; refused frames go to the same name with `_rejected` behind it.",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
    )
    kafka_partitions: int = named(
        "CRYPTOLAKE_KAFKA_PARTITIONS", 4, "Partitions of the topics when they are created.", ge=1, le=10_000
    )
    kafka_replication: int = named(
        "CRYPTOLAKE_KAFKA_REPLICATION", 1, "Replication factor of the topics when they are created.", ge=1, le=9
    )

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _servers(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",") if server.strip()]
        for server in servers:
            match = _SERVER.fullmatch(server)
            if match is None or not 1 <= int(match.group(1)) <= _MAX_PORT:
                raise ValueError(f"{server!r} is not host:port, such as broker.example:9093")
        return ",".join(servers)

    @field_validator("kafka_oauth_token_url")
    @classmethod
    def _address(cls, value: str) -> str:
        """Reject URLs that could contain a secret, because messages include the URL."""
        if value and not (_TOKEN_URL.fullmatch(value) and urlsplit(value).port != 0):
            raise ValueError("it is not http(s)://host[:port]/path, without a user, a query or a fragment")
        return value

    @field_validator("kafka_sasl_username", "kafka_oauth_scope")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("it has no line end or other control character")
        return value

    @model_validator(mode="after")
    def _access_fits_together(self) -> Self:
        """Reject combinations of settings that cannot work, or would silently be ignored."""
        protocol = f"{_variable('kafka_security_protocol')} is {self.kafka_security_protocol}"
        if self.kafka_security_protocol is not SecurityProtocol.PLAINTEXT and not self.kafka_bootstrap_servers:
            raise ValueError(
                f"{protocol}, but {_variable('kafka_bootstrap_servers')} is empty: the local broker speaks PLAINTEXT. "
                "Name your brokers, or leave the protocol at PLAINTEXT"
            )
        user = ("kafka_sasl_username", "kafka_sasl_password")
        if self.kafka_security_protocol.has_sasl:
            if lacking := [_variable(field) for field in user if not self._is_set(field)]:
                raise ValueError(f"{protocol}, which needs a user and a password: set {' and '.join(lacking)}")
        elif unused := [_variable(field) for field in user if self._is_set(field)]:
            raise ValueError(f"{protocol}, which knows no user: set it to SASL_SSL, or unset {' and '.join(unused)}")
        self._token_fits_together()
        files = ("kafka_ssl_ca_file", "kafka_ssl_cert_file", "kafka_ssl_key_file", "kafka_ssl_key_password")
        unused = [_variable(field) for field in files if self._is_set(field)]
        if unused and not self.kafka_security_protocol.has_tls:
            raise ValueError(
                f"{protocol}, which is not encrypted: set it to {'SASL_' * self.kafka_security_protocol.has_sasl}SSL, "
                f"or unset {' and '.join(unused)}"
            )
        self._key_fits_together()
        return self

    @property
    def kafka_uses_oauth(self) -> bool:
        """Return whether clients authenticate to the brokers with a token of an OAuth 2 server."""
        return self.kafka_security_protocol.has_sasl and self.kafka_sasl_mechanism is SaslMechanism.OAUTHBEARER

    def _token_fits_together(self) -> None:
        mechanism = f"{_variable('kafka_sasl_mechanism')} is {self.kafka_sasl_mechanism}"
        if self.kafka_uses_oauth:
            if not self._is_set("kafka_oauth_token_url"):
                raise ValueError(f"{mechanism}: set {_variable('kafka_oauth_token_url')}, where its tokens come from")
            if ":" in self.kafka_sasl_username:
                raise ValueError(
                    f"{mechanism}: {_variable('kafka_sasl_username')} has a colon, which HTTP Basic forbids"
                )
            return
        fields = ("kafka_oauth_token_url", "kafka_oauth_scope")
        if unused := [_variable(field) for field in fields if self._is_set(field)]:
            raise ValueError(
                f"{' and '.join(unused)} would not be used: {_variable('kafka_security_protocol')} is "
                f"{self.kafka_security_protocol} and {mechanism}. For tokens set these to SASL_SSL and "
                f"{SaslMechanism.OAUTHBEARER}"
            )

    def _key_fits_together(self) -> None:
        certificate, key = (self._is_set(field) for field in ("kafka_ssl_cert_file", "kafka_ssl_key_file"))
        names = [_variable(field) for field in ("kafka_ssl_cert_file", "kafka_ssl_key_file")]
        if certificate != key:
            there, lacking = names if certificate else reversed(names)
            raise ValueError(
                f"{there} is set and {lacking} is not: a client's certificate works with its key only. Set both (they "
                "may name one file), or neither"
            )
        if self._is_set("kafka_ssl_key_password") and not key:
            raise ValueError(f"{_variable('kafka_ssl_key_password')} is set without {names[1]}: name the key's file")

    def _is_set(self, field: str) -> bool:
        value = getattr(self, field)
        return bool(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _variable(field: str) -> str:
    return str(KafkaSettings.model_fields[field].validation_alias)
