"""Kafka client options: one set of settings, translated for each client library.

Three clients connect to the brokers: aiokafka (topics, offsets, the default producer), librdkafka (the producer of the
extra `fast`) and Java's (Spark's source). This module is the only source of their options.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.settings import Settings, env_name
from cryptolake_assets.settings.kafka import SaslMechanism

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

CLIENT_ID: Final = "cryptolake"

_JAVA_LOGIN_MODULES: Final = {
    SaslMechanism.PLAIN: "org.apache.kafka.common.security.plain.PlainLoginModule",
    SaslMechanism.SCRAM_SHA_256: "org.apache.kafka.common.security.scram.ScramLoginModule",
    SaslMechanism.SCRAM_SHA_512: "org.apache.kafka.common.security.scram.ScramLoginModule",
    SaslMechanism.OAUTHBEARER: "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule",
}
_JAVA_OAUTH_HANDLER: Final = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler"


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """Return the options of aiokafka's clients. Raises `SettingsError` for unusable files."""
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": CLIENT_ID,
        "security_protocol": protocol.value,
    }
    if protocol.has_tls:
        options["ssl_context"] = ssl_context(settings)
    if protocol.has_sasl:
        options |= {"sasl_mechanism": settings.kafka_sasl_mechanism.value, **_aiokafka_credentials(settings)}
    return options


def _aiokafka_credentials(settings: Settings) -> dict[str, Any]:
    if settings.kafka_uses_oauth:
        from cryptolake_assets.kafka.oauth import ClientCredentials

        return {"sasl_oauth_token_provider": ClientCredentials(settings)}
    return {
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
    }


def librdkafka_options(settings: Settings) -> dict[str, Any]:
    """Return librdkafka's options. Raises `SettingsError` for unusable files."""
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": CLIENT_ID,
        "security.protocol": protocol.value,
    }
    if protocol.has_tls:
        ssl_context(settings)  # validates the files: its errors name the setting, librdkafka's do not
        options |= {
            name: str(value)
            for name, value in (
                ("ssl.ca.location", settings.kafka_ssl_ca_file),
                ("ssl.certificate.location", settings.kafka_ssl_cert_file),
                ("ssl.key.location", settings.kafka_ssl_key_file),
                ("ssl.key.password", settings.kafka_ssl_key_password.get_secret_value()),
            )
            if value
        }
    if protocol.has_sasl:
        options |= {"sasl.mechanism": settings.kafka_sasl_mechanism.value, **_librdkafka_credentials(settings)}
    return options


def _librdkafka_credentials(settings: Settings) -> dict[str, str]:
    user, password = settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
    if not settings.kafka_uses_oauth:
        return {"sasl.username": user, "sasl.password": password}
    options = {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": user,
        "sasl.oauthbearer.client.secret": password,
        "sasl.oauthbearer.token.endpoint.url": settings.kafka_oauth_token_url,
    }
    return options | ({"sasl.oauthbearer.scope": settings.kafka_oauth_scope} if settings.kafka_oauth_scope else {})


def spark_options(settings: Settings) -> dict[str, str]:
    """Return the options of Spark's source `kafka`.

    Certificates and key are passed as text, so that Spark needs no local files. Raises `SettingsError` for unusable
    files.
    """
    protocol = settings.kafka_security_protocol
    options = {"bootstrap.servers": settings.bootstrap_servers, "security.protocol": protocol.value}
    if protocol.has_tls:
        ssl_context(settings)
        if settings.kafka_ssl_ca_file is not None:
            options |= {
                "ssl.truststore.type": "PEM",
                "ssl.truststore.certificates": _read_text(settings.kafka_ssl_ca_file),
            }
        if settings.kafka_ssl_cert_file is not None and settings.kafka_ssl_key_file is not None:
            options |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.certificate.chain": _certificates(_read_text(settings.kafka_ssl_cert_file)),
                "ssl.keystore.key": _java_key(settings),
            }
    if protocol.has_sasl:
        options |= {"sasl.mechanism": settings.kafka_sasl_mechanism.value, "sasl.jaas.config": _jaas(settings)}
    if settings.kafka_uses_oauth:
        options |= {
            "sasl.login.callback.handler.class": _JAVA_OAUTH_HANDLER,
            "sasl.oauthbearer.token.endpoint.url": settings.kafka_oauth_token_url,
        }
    return {f"kafka.{name}": value for name, value in options.items()}


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """Return a TLS context with the trusted CAs (configured, or the system's) and any client certificate.

    Raises `SettingsError`, naming the variable, for a file that is unreadable or has the wrong content.
    """
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _unusable_file("kafka_ssl_ca_file", settings.kafka_ssl_ca_file, "CA certificates", error) from error
    # Some Python builds take the minimum version from the system.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.kafka_ssl_cert_file is not None:
        password = settings.kafka_ssl_key_password.get_secret_value()
        try:
            # Without a callback, OpenSSL would prompt for a password on the terminal.
            context.load_cert_chain(settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file, lambda: password)
        except (OSError, ssl.SSLError, ValueError) as error:
            content = f"certificate for the key in {env_name('kafka_ssl_key_file')} ({settings.kafka_ssl_key_file})"
            raise _unusable_file("kafka_ssl_cert_file", settings.kafka_ssl_cert_file, content, error) from error
    return context


def _unusable_file(field: str, path: Path | None, content: str, error: Exception) -> SettingsError:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return SettingsError(
        f"{env_name(field)}: {path} contains no usable {content} in PEM format ({cause}). Check path and content."
    )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _certificates(pem: str) -> str:
    """Return the certificates of a PEM file, without any private key in it."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    certificates = load_pem_x509_certificates(pem.encode())
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def _java_key(settings: Settings) -> str:
    """Return the client's key, decrypted, in PKCS #8, the only format that Java reads."""
    from cryptography.hazmat.primitives import serialization

    assert settings.kafka_ssl_key_file is not None  # noqa: S101 - the caller has checked it
    password = settings.kafka_ssl_key_password.get_secret_value()
    try:
        key: PrivateKeyTypes = serialization.load_pem_private_key(
            settings.kafka_ssl_key_file.read_bytes(), password.encode() if password else None
        )
    except (OSError, ValueError, TypeError) as error:
        raise _unusable_file("kafka_ssl_key_file", settings.kafka_ssl_key_file, "private key", error) from error
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _jaas(settings: Settings) -> str:
    user, password = settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
    if settings.kafka_uses_oauth:
        values = {"clientId": user, "clientSecret": password}
        values |= {"scope": settings.kafka_oauth_scope} if settings.kafka_oauth_scope else {}
    else:
        values = {"username": user, "password": password}
    login = _JAVA_LOGIN_MODULES[settings.kafka_sasl_mechanism]
    return f"{login} required {' '.join(f'{name}={_quoted(value)}' for name, value in values.items())};"


def _quoted(text: str) -> str:
    """Quote a string for a JAAS configuration, which Java reads with C escapes."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'
