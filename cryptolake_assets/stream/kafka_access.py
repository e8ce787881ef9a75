"""How Kafka is connected to: the options of each client library, from one set of settings, and why one is refused.

Three clients speak to the brokers: aiokafka (topics, offsets, the default producer), librdkafka (the producer of the
extra `fast`) and Java's (Spark's source). Every one of them gets its options here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptolake_assets.errors import BrokerError, BrokerRefusedError, SettingsError
from cryptolake_assets.settings import Settings, env_name
from cryptolake_assets.settings_kafka import SaslMechanism

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

CLIENT_ID: Final = "cryptolake"
PROBE_TIMEOUT_S: Final = 5.0
"""How long one broker may take to let a client in before it counts as away."""
ALERT_WAIT_S: Final = 1.0

_JAVA_LOGIN: Final = {
    SaslMechanism.PLAIN: "org.apache.kafka.common.security.plain.PlainLoginModule",
    SaslMechanism.SCRAM_SHA_256: "org.apache.kafka.common.security.scram.ScramLoginModule",
    SaslMechanism.SCRAM_SHA_512: "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """Options of aiokafka's producer, consumer and admin client. Raises `SettingsError` for files that do not fit."""
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": CLIENT_ID,
        "security_protocol": protocol.value,
    }
    if protocol.has_tls:
        options["ssl_context"] = ssl_context(settings)
    if protocol.has_sasl:
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism.value,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return options


def librdkafka_options(settings: Settings) -> dict[str, Any]:
    """The same for librdkafka. Raises `SettingsError` for files that do not fit."""
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": CLIENT_ID,
        "security.protocol": protocol.value,
    }
    if protocol.has_tls:
        ssl_context(settings)  # its errors name the setting, librdkafka's do not
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
        options |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism.value,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    return options


def spark_options(settings: Settings) -> dict[str, str]:
    """The same for Spark's source `kafka`. Certificates and key go along as text: no file need lie where Spark runs.

    Raises `SettingsError` for files that do not fit.
    """
    protocol = settings.kafka_security_protocol
    options = {"bootstrap.servers": settings.bootstrap_servers, "security.protocol": protocol.value}
    if protocol.has_tls:
        ssl_context(settings)
        if settings.kafka_ssl_ca_file is not None:
            options |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": _text(settings.kafka_ssl_ca_file)}
        if settings.kafka_ssl_cert_file is not None and settings.kafka_ssl_key_file is not None:
            options |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.certificate.chain": _certificates(_text(settings.kafka_ssl_cert_file)),
                "ssl.keystore.key": _java_key(settings),
            }
    if protocol.has_sasl:
        options |= {"sasl.mechanism": settings.kafka_sasl_mechanism.value, "sasl.jaas.config": _jaas(settings)}
    return {f"kafka.{name}": value for name, value in options.items()}


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """Trust in the CA's certificates, or the system's, and the client's own certificate where there is one.

    Raises `SettingsError`, naming the variable, for a file that cannot be read or does not hold what it should.
    """
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("kafka_ssl_ca_file", settings.kafka_ssl_ca_file, "CA certificates", error) from error
    if settings.kafka_ssl_cert_file is not None:
        password = settings.kafka_ssl_key_password.get_secret_value()
        try:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file, lambda: password)
        except (OSError, ssl.SSLError, ValueError) as error:
            what = f"a certificate whose key is in {env_name('kafka_ssl_key_file')} ({settings.kafka_ssl_key_file})"
            raise _unusable("kafka_ssl_cert_file", settings.kafka_ssl_cert_file, what, error) from error
    return context


def _unusable(field: str, path: Path | None, what: str, error: Exception) -> SettingsError:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return SettingsError(f"{env_name(field)}: {path} does not give {what} in PEM ({cause})")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _certificates(pem: str) -> str:
    """The certificates of a PEM file, without a key that may stand beside them."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    found = load_pem_x509_certificates(pem.encode())
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)


def _java_key(settings: Settings) -> str:
    """The client's key in the one form that Java reads, PKCS #8; the password stays here."""
    from cryptography.hazmat.primitives import serialization

    assert settings.kafka_ssl_key_file is not None  # noqa: S101  the caller has looked
    password = settings.kafka_ssl_key_password.get_secret_value()
    try:
        key: PrivateKeyTypes = serialization.load_pem_private_key(
            settings.kafka_ssl_key_file.read_bytes(), password.encode() if password else None
        )
    except (OSError, ValueError, TypeError) as error:
        raise _unusable("kafka_ssl_key_file", settings.kafka_ssl_key_file, "a private key", error) from error
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _jaas(settings: Settings) -> str:
    user, password = settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
    login = _JAVA_LOGIN[settings.kafka_sasl_mechanism]
    return f"{login} required username={_quoted(user)} password={_quoted(password)};"


def _quoted(text: str) -> str:
    """A string of a JAAS configuration: Java reads it with the escapes of C."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'


# Refusals.


def is_refusal(error: BaseException) -> bool:
    """Whether an error of Kafka's client will come again however often one tries: rights, settings, versions."""
    from aiokafka import errors

    if isinstance(error, ssl.SSLError):
        # A connection that is cut meanwhile is no answer; an alert or a certificate is.
        return not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))
    return isinstance(
        error,
        (
            BrokerRefusedError,
            errors.TopicAuthorizationFailedError,
            errors.ClusterAuthorizationFailedError,
            errors.SaslAuthenticationFailed,
            errors.UnsupportedSaslMechanismError,
            errors.IllegalSaslStateError,
            errors.AuthenticationFailedError,
            errors.AuthenticationMethodNotSupported,
            errors.MessageSizeTooLargeError,
            errors.RecordListTooLargeError,
            errors.InvalidTopicError,
            errors.UnsupportedVersionError,
            errors.IncompatibleBrokerVersion,
            errors.UnsupportedForMessageFormatError,
            errors.PolicyViolationError,
        ),
    )


async def find_problem(settings: Settings) -> Exception | None:
    """Knocks at the brokers as a client does; None when one lets it in, else the most telling error.

    The clients' own errors only say that they could not begin: what a broker answered stays in their logs.
    """
    from aiokafka.conn import create_conn
    from aiokafka.errors import KafkaError
    from aiokafka.protocol.metadata import MetadataRequest

    options = aiokafka_options(settings)
    del options["bootstrap_servers"]
    found: Exception | None = None
    for host, port in settings.bootstrap_addresses:
        connection = None
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                connection = await create_conn(host, port, **options, request_timeout_ms=int(PROBE_TIMEOUT_S * 1000))
                # A broker that wants another protocol drops the first request that it may not answer.
                await connection.send(MetadataRequest([]))
                return None
        except (KafkaError, OSError) as error:
            if settings.kafka_security_protocol.has_tls and not is_refusal(error):
                error = await asyncio.to_thread(_alert, options["ssl_context"], host, port) or error
            if found is None or is_refusal(error):
                found = error
        finally:
            if connection is not None:
                connection.close()
    return found


def _alert(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLError | None:
    """What a broker says behind the handshake, where TLS 1.3 tells that it wants another certificate; asyncio's streams
    show it as an end."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), PROBE_TIMEOUT_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secured:
                secured.settimeout(ALERT_WAIT_S)
                secured.recv(1)
        except ssl.SSLError as error:
            return error
    return None


async def broker_error(settings: Settings, purpose: str, error: Exception, *, refused: bool = False) -> BrokerError:
    """What to raise when brokers cannot be used: a `BrokerRefusedError` where they refuse for good, and each with what
    to do. `purpose` follows on "could not"; `refused` where the caller knows that the error is a refusal."""
    if not refused and not is_refusal(error):
        with contextlib.suppress(SettingsError):
            problem = await find_problem(settings)
            if problem is not None and is_refusal(problem):
                error = problem
    servers = settings.bootstrap_servers
    if refused or is_refusal(error):
        return BrokerRefusedError(
            f"kafka: could not {purpose}: the brokers at {servers} refuse ({cause_of(error)}). {_remedy(error)}"
        )
    return BrokerError(
        f"kafka: could not {purpose} at {servers} ({cause_of(error)}). Is the broker up (`cryptolake status`), is "
        "KAFKA_BOOTSTRAP_SERVERS right, and does that listener speak "
        f"{settings.kafka_security_protocol} ({env_name('kafka_security_protocol')})?"
    )


def cause_of(error: BaseException) -> str:
    """An error's kind and words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def refused_by_java(settings: Settings, message: str) -> BrokerRefusedError | None:
    """The error for what Java's client said, by its text; None where it is no refusal."""
    remedy = next((remedy for name, remedy in _JAVA_REFUSALS.items() if name in message), None)
    if remedy is None:
        return None
    return BrokerRefusedError(
        f"kafka: Spark could not read: the brokers at {settings.bootstrap_servers} refuse ({message}). {remedy}"
    )


def _named(text: str) -> str:
    """`text` with the variables of the fields that stand in it in braces."""
    return text.format_map({field: env_name(field) for field in Settings.model_fields})


_USER: Final = _named(
    "Correct {kafka_sasl_username} or {kafka_sasl_password}; {kafka_sasl_mechanism} must be one that the user was made "
    "for."
)
_MECHANISM: Final = _named("Set {kafka_sasl_mechanism} to one that the brokers' listener offers.")
_LISTENER: Final = _named("Set {kafka_security_protocol} to what the listener at {kafka_bootstrap_servers} speaks.")
_CA: Final = _named(
    "Set {kafka_ssl_ca_file} to the CA of the brokers' certificates, and {kafka_bootstrap_servers} to names that stand "
    "in them."
)
_TLS: Final = _named(
    "Set {kafka_security_protocol} to what the listener speaks, and {kafka_ssl_cert_file} and {kafka_ssl_key_file} "
    "where it asks for a client's certificate."
)
_RIGHTS: Final = "Give the user the right, or correct the setting that it is about."

_JAVA_REFUSALS: Final = {
    "SaslAuthenticationException": _USER,
    "UnsupportedSaslMechanismException": _MECHANISM,
    "IllegalSaslStateException": _LISTENER,
    "SslAuthenticationException": f"{_CA} {_TLS}",
    "AuthorizationException": _RIGHTS,
}


def _remedy(error: BaseException) -> str:
    from aiokafka import errors

    for kind, remedy in (
        ((errors.SaslAuthenticationFailed, errors.AuthenticationFailedError), _USER),
        ((errors.UnsupportedSaslMechanismError, errors.AuthenticationMethodNotSupported), _MECHANISM),
        ((errors.IllegalSaslStateError,), _LISTENER),
        ((ssl.SSLCertVerificationError,), _CA),
        ((ssl.SSLError,), _TLS),
    ):
        if isinstance(error, kind):
            return remedy
    return _RIGHTS
