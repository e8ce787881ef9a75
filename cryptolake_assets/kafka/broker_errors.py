"""Distinguish Kafka access errors from outages, and give the next step for each.

The clients' own errors mostly report only that they could not start; a probe connection finds the brokers' response.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from cryptolake_assets.errors import BrokerAccessError, BrokerError, SettingsError
from cryptolake_assets.kafka.access import aiokafka_options
from cryptolake_assets.settings import Settings, env_name

PROBE_TIMEOUT_S: Final = 5.0  # a broker that accepts no client within this time counts as unreachable
ALERT_WAIT_S: Final = 1.0


def is_access_error(error: BaseException) -> bool:
    """Return whether retries cannot fix an error of Kafka's client: permissions, settings, versions."""
    from aiokafka import errors

    if isinstance(error, ssl.SSLError):
        # A disconnect during the handshake may be an outage; a TLS alert or a bad certificate is a rejection.
        return not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))
    return isinstance(
        error,
        (
            BrokerAccessError,
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
    """Connect to the brokers as a client does; return the most specific error, or None if a broker accepts.

    The clients' own errors only report that they could not start; the brokers' responses stay in the clients' logs.
    """
    from aiokafka.errors import KafkaError
    from aiokafka.protocol.metadata import MetadataRequest

    from cryptolake_assets.kafka.oauth import TokenCheckingConnection, TokenServerUnavailableError

    options = aiokafka_options(settings)
    del options["bootstrap_servers"]
    problem: Exception | None = None
    for host, port in settings.bootstrap_addresses:
        connection = TokenCheckingConnection(host, port, **options, request_timeout_ms=int(PROBE_TIMEOUT_S * 1000))
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await connection.connect()
                # A broker that expects another protocol disconnects at the first request that it does not allow.
                await connection.send(MetadataRequest([]))
                return None
        except (KafkaError, OSError) as error:
            is_token = isinstance(error, TokenServerUnavailableError)
            if settings.kafka_security_protocol.has_tls and not is_token and not is_access_error(error):
                error = await asyncio.to_thread(_read_tls_alert, options["ssl_context"], host, port) or error
            if problem is None or is_access_error(error) or (is_token and not is_access_error(problem)):
                problem = error
        finally:
            connection.close()
    return problem


def _read_tls_alert(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLError | None:
    """Return the TLS alert that a broker sends after the handshake; None if there is none.

    With TLS 1.3, a broker rejects a client certificate only then; asyncio's streams report that as a disconnect.
    """
    with contextlib.suppress(OSError), socket.create_connection((host, port), PROBE_TIMEOUT_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secured:
                secured.settimeout(ALERT_WAIT_S)
                secured.recv(1)
        except ssl.SSLError as error:
            return error
    return None


async def broker_error(
    settings: Settings, purpose: str, error: Exception, *, access_error: bool = False
) -> BrokerError:
    """Return the error to raise for unusable brokers, with the next step; `BrokerAccessError` if retries cannot help.

    `purpose` completes "could not"; `access_error`: the caller knows that this is an access error.
    """
    from cryptolake_assets.kafka.oauth import TokenServerUnavailableError

    if not access_error and not is_access_error(error):
        with contextlib.suppress(SettingsError):
            problem = await find_problem(settings)
            if problem is not None and (is_access_error(problem) or isinstance(problem, TokenServerUnavailableError)):
                error = problem
    return broker_error_without_probe(settings, purpose, error, access_error=access_error)


def broker_error_without_probe(
    settings: Settings, purpose: str, error: Exception, *, access_error: bool = False
) -> BrokerError:
    """Return the same as `broker_error`, without a probe connection."""
    from cryptolake_assets.kafka.oauth import TokenServerUnavailableError

    if access_error or is_access_error(error):
        return BrokerAccessError(
            f"kafka: could not {purpose}: the brokers at {settings.bootstrap_servers} rejected the client "
            f"({cause_of(error)}). "
            f"{_remedy(settings, error)}"
        )
    if isinstance(error, TokenServerUnavailableError):
        return BrokerError(
            f"kafka: could not {purpose}: {error}. Check that the token server is up and that "
            f"{env_name('kafka_oauth_token_url')} is right."
        )
    return BrokerError(
        f"kafka: could not {purpose} at {settings.bootstrap_servers} ({cause_of(error)}). Check that the broker is up "
        "(`cryptolake status`), that KAFKA_BOOTSTRAP_SERVERS is right, and that the listener uses "
        f"{settings.kafka_security_protocol} ({env_name('kafka_security_protocol')})."
    )


def cause_of(error: BaseException) -> str:
    """Return an error's type and message; some messages already begin with the type."""
    kind = type(error).__name__
    message = str(error).removeprefix(f"{kind}: ")
    return f"{kind}: {message}" if message else kind


def java_access_error(settings: Settings, message: str) -> BrokerAccessError | None:
    """Return the error for a message of Java's client; None if it is not an access error."""
    remedy = next((remedy for name, remedy in _JAVA_ACCESS_ERRORS.items() if name in message), None)
    if remedy is None:
        return None
    if remedy is _USER and settings.kafka_uses_oauth:
        remedy = _TOKEN
    return BrokerAccessError(
        f"kafka: Spark could not read: the brokers at {settings.bootstrap_servers} rejected the client "
        f"({message}). {remedy}"
    )


def _with_env_names(text: str) -> str:
    """Replace field names in braces by their environment variables."""
    return text.format_map({field: env_name(field) for field in Settings.model_fields})


_USER: Final = _with_env_names(
    "Correct {kafka_sasl_username} or {kafka_sasl_password}; set {kafka_sasl_mechanism} to a mechanism for which the "
    "user has credentials."
)
_TOKEN: Final = _with_env_names(
    "Correct {kafka_sasl_username} (the client's id), {kafka_sasl_password} (its secret), {kafka_oauth_token_url} or "
    "{kafka_oauth_scope}; if the brokers reject a token that the server issued, check the issuer, audience and claims "
    "that they require."
)
_MECHANISM: Final = _with_env_names("Set {kafka_sasl_mechanism} to a mechanism that the brokers' listener supports.")
_LISTENER: Final = _with_env_names(
    "Set {kafka_security_protocol} to the protocol of the listener at {kafka_bootstrap_servers}."
)
_CA: Final = _with_env_names(
    "Set {kafka_ssl_ca_file} to the CA of the brokers' certificates, and {kafka_bootstrap_servers} to host names "
    "that they contain."
)
_TLS: Final = _with_env_names(
    "Set {kafka_security_protocol} to the listener's protocol, and {kafka_ssl_cert_file} and {kafka_ssl_key_file} if "
    "it requires a client certificate."
)
_PERMISSION: Final = "Grant the user the permission, or correct the related setting."

_JAVA_ACCESS_ERRORS: Final = {
    "SaslAuthenticationException": _USER,
    "UnsupportedSaslMechanismException": _MECHANISM,
    "IllegalSaslStateException": _LISTENER,
    "SslAuthenticationException": f"{_CA} {_TLS}",
    "AuthorizationException": _PERMISSION,
}


def _remedy(settings: Settings, error: BaseException) -> str:
    from aiokafka import errors

    user = _TOKEN if settings.kafka_uses_oauth else _USER
    for kind, remedy in (
        ((errors.SaslAuthenticationFailed, errors.AuthenticationFailedError), user),
        ((errors.UnsupportedSaslMechanismError, errors.AuthenticationMethodNotSupported), _MECHANISM),
        ((errors.IllegalSaslStateError,), _LISTENER),
        ((ssl.SSLCertVerificationError,), _CA),
        ((ssl.SSLError,), _TLS),
    ):
        if isinstance(error, kind):
            return remedy
    return _PERMISSION
