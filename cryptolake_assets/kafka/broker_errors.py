"""Tells access errors from outages of Kafka, and says what to do about either.

The clients' own errors mostly say only that they could not start; a probe connection finds out what the brokers
answered.
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

PROBE_TIMEOUT_S: Final = 5.0  # how long one broker may take to accept a client before it counts as unreachable
ALERT_WAIT_S: Final = 1.0


def is_access_error(error: BaseException) -> bool:
    """Return whether retries cannot fix an error of Kafka's client: permissions, settings, versions."""
    from aiokafka import errors

    if isinstance(error, ssl.SSLError):
        # A connection cut during the handshake is no answer; a TLS alert or a bad certificate is.
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
    """Connect to the brokers as a client does; return None if one accepts, else the most telling error.

    The clients' own errors only say that they could not start; the brokers' answers stay in their logs.
    """
    from aiokafka.errors import KafkaError
    from aiokafka.protocol.metadata import MetadataRequest

    from cryptolake_assets.kafka.oauth import TokenHeedingConnection, TokenServerAwayError

    options = aiokafka_options(settings)
    del options["bootstrap_servers"]
    found: Exception | None = None
    for host, port in settings.bootstrap_addresses:
        connection = TokenHeedingConnection(host, port, **options, request_timeout_ms=int(PROBE_TIMEOUT_S * 1000))
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await connection.connect()
                # A broker that expects another protocol disconnects at the first request that it does not allow.
                await connection.send(MetadataRequest([]))
                return None
        except (KafkaError, OSError) as error:
            is_token = isinstance(error, TokenServerAwayError)
            if settings.kafka_security_protocol.has_tls and not is_token and not is_access_error(error):
                error = await asyncio.to_thread(_alert, options["ssl_context"], host, port) or error
            if found is None or is_access_error(error) or (is_token and not is_access_error(found)):
                found = error
        finally:
            connection.close()
    return found


def _alert(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLError | None:
    """Return the TLS alert that a broker sends after the handshake; None if there is none.

    With TLS 1.3 a broker demands another client certificate only then; asyncio's streams report that as an end.
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
    """Return the error to raise if brokers cannot be used, with what to do; `BrokerAccessError` if retries cannot help.

    `purpose` completes "could not"; `access_error`: the caller knows that this is an access error.
    """
    from cryptolake_assets.kafka.oauth import TokenServerAwayError

    if not access_error and not is_access_error(error):
        with contextlib.suppress(SettingsError):
            problem = await find_problem(settings)
            if problem is not None and (is_access_error(problem) or isinstance(problem, TokenServerAwayError)):
                error = problem
    return explained(settings, purpose, error, access_error=access_error)


def explained(settings: Settings, purpose: str, error: Exception, *, access_error: bool = False) -> BrokerError:
    """Return the same as `broker_error`, for an error that needs no probe."""
    from cryptolake_assets.kafka.oauth import TokenServerAwayError

    if access_error or is_access_error(error):
        return BrokerAccessError(
            f"kafka: could not {purpose}: the brokers at {settings.bootstrap_servers} refuse ({cause_of(error)}). "
            f"{_remedy(settings, error)}"
        )
    if isinstance(error, TokenServerAwayError):
        return BrokerError(
            f"kafka: could not {purpose}: {error}. Is that server up, and is {env_name('kafka_oauth_token_url')} right?"
        )
    return BrokerError(
        f"kafka: could not {purpose} at {settings.bootstrap_servers} ({cause_of(error)}). Is the broker up "
        "(`cryptolake status`), is KAFKA_BOOTSTRAP_SERVERS right, and does that listener speak "
        f"{settings.kafka_security_protocol} ({env_name('kafka_security_protocol')})?"
    )


def cause_of(error: BaseException) -> str:
    """Return an error's type and message; some messages already begin with the type."""
    kind = type(error).__name__
    words = str(error).removeprefix(f"{kind}: ")
    return f"{kind}: {words}" if words else kind


def java_access_error(settings: Settings, message: str) -> BrokerAccessError | None:
    """Return the error for a message of Java's client; None if it is no access error."""
    remedy = next((remedy for name, remedy in _JAVA_ACCESS_ERRORS.items() if name in message), None)
    if remedy is None:
        return None
    if remedy is _USER and settings.kafka_uses_oauth:
        remedy = _TOKEN
    return BrokerAccessError(
        f"kafka: Spark could not read: the brokers at {settings.bootstrap_servers} refuse ({message}). {remedy}"
    )


def _named(text: str) -> str:
    """Return `text` with field names in braces replaced by their environment variables."""
    return text.format_map({field: env_name(field) for field in Settings.model_fields})


_USER: Final = _named(
    "Correct {kafka_sasl_username} or {kafka_sasl_password}; {kafka_sasl_mechanism} must be one that the user was made "
    "for."
)
_TOKEN: Final = _named(
    "Correct {kafka_sasl_username} (the client's id), {kafka_sasl_password} (its secret), {kafka_oauth_token_url} or "
    "{kafka_oauth_scope}; where a token was given and the brokers do not take it, look at the issuer, audience and "
    "claims that they ask for."
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

_JAVA_ACCESS_ERRORS: Final = {
    "SaslAuthenticationException": _USER,
    "UnsupportedSaslMechanismException": _MECHANISM,
    "IllegalSaslStateException": _LISTENER,
    "SslAuthenticationException": f"{_CA} {_TLS}",
    "AuthorizationException": _RIGHTS,
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
    return _RIGHTS
