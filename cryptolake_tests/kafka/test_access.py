"""Client options and invalid settings; the integration tests cover the brokers' responses."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cryptolake_assets.errors import BrokerAccessError, BrokerError, SettingsError
from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.kafka.access import aiokafka_options, librdkafka_options, spark_options, ssl_context
from cryptolake_assets.kafka.broker_errors import broker_error, is_access_error, java_access_error
from cryptolake_assets.kafka.oauth import ClientCredentials
from cryptolake_assets.platform.parts import PARTS
from cryptolake_assets.settings import Settings, load_settings
from cryptolake_tests.support.certificates import Authority

SERVERS = "a.example:9093,b.example:9093"
USER = {"kafka_sasl_username": "lake", "kafka_sasl_password": 'p"a\\ss'}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


def secure(**fields: Any) -> Settings:
    return load_settings(kafka_bootstrap_servers=SERVERS, **fields)


def test_without_security_options_contain_only_the_servers() -> None:
    settings = load_settings(kafka_port=19092)
    assert aiokafka_options(settings)["bootstrap_servers"] == "127.0.0.1:19092"
    assert aiokafka_options(settings)["security_protocol"] == "PLAINTEXT"
    assert "ssl_context" not in aiokafka_options(settings)
    assert librdkafka_options(settings)["security.protocol"] == "PLAINTEXT"
    assert spark_options(settings) == {
        "kafka.bootstrap.servers": "127.0.0.1:19092",
        "kafka.security.protocol": "PLAINTEXT",
    }


def test_every_client_uses_the_same_user_and_servers(authority: Authority) -> None:
    settings = secure(
        **USER,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-256",
        kafka_ssl_ca_file=authority.ca_file,
    )
    options = aiokafka_options(settings)
    assert isinstance(options.pop("ssl_context"), ssl.SSLContext)
    assert options == {
        "bootstrap_servers": SERVERS,
        "client_id": "cryptolake",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "lake",
        "sasl_plain_password": 'p"a\\ss',
    }
    assert librdkafka_options(settings) == {
        "bootstrap.servers": SERVERS,
        "client.id": "cryptolake",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(authority.ca_file),
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "lake",
        "sasl.password": 'p"a\\ss',
    }
    assert spark_options(settings) == {
        "kafka.bootstrap.servers": SERVERS,
        "kafka.security.protocol": "SASL_SSL",
        "kafka.sasl.mechanism": "SCRAM-SHA-256",
        "kafka.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="lake" password="p\\"a\\\\ss";',
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.certificates": authority.ca_file.read_text(),
    }


CLIENT = {
    **USER,
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_mechanism": "OAUTHBEARER",
    "kafka_oauth_token_url": "https://identity.example/token",
}


@pytest.mark.parametrize("scope", ["", "kafka.read kafka.write"])
def test_every_client_uses_the_same_token_endpoint(scope: str) -> None:
    settings = secure(**CLIENT, kafka_oauth_scope=scope)
    options = aiokafka_options(settings)
    assert isinstance(options["sasl_oauth_token_provider"], ClientCredentials)
    assert options["sasl_mechanism"] == "OAUTHBEARER"
    assert "sasl_plain_username" not in options
    librdkafka = librdkafka_options(settings)
    assert {name: value for name, value in librdkafka.items() if name.startswith("sasl.")} == {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "lake",
        "sasl.oauthbearer.client.secret": 'p"a\\ss',
        "sasl.oauthbearer.token.endpoint.url": "https://identity.example/token",
        **({"sasl.oauthbearer.scope": scope} if scope else {}),
    }
    spark = spark_options(settings)
    assert {name: value for name, value in spark.items() if ".sasl." in name} == {
        "kafka.sasl.mechanism": "OAUTHBEARER",
        "kafka.sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
        'clientId="lake" clientSecret="p\\"a\\\\ss"' + (f' scope="{scope}"' if scope else "") + ";",
        "kafka.sasl.login.callback.handler.class": "org.apache.kafka.common.security.oauthbearer."
        "OAuthBearerLoginCallbackHandler",
        "kafka.sasl.oauthbearer.token.endpoint.url": "https://identity.example/token",
    }


@pytest.mark.parametrize("one_file", [False, True])
def test_spark_gets_the_client_certificate_and_its_decrypted_key_only(
    authority: Authority, tmp_path: Path, one_file: bool
) -> None:
    certificate, key = authority.sign("client", encrypted_with="secret")
    if one_file:
        both = tmp_path / "both.pem"
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        certificate = key = both
    settings = secure(
        kafka_security_protocol="SSL",
        kafka_ssl_cert_file=certificate,
        kafka_ssl_key_file=key,
        **{"kafka_ssl_key_password": "secret"},
    )
    options = spark_options(settings)
    assert "kafka.ssl.truststore.type" not in options
    assert options["kafka.ssl.keystore.type"] == "PEM"
    chain = options["kafka.ssl.keystore.certificate.chain"]
    assert chain.startswith("-----BEGIN CERTIFICATE-----")
    assert "KEY" not in chain
    java_key = options["kafka.ssl.keystore.key"]
    assert java_key.splitlines()[0].strip("-") == "BEGIN PRIVATE KEY"
    # The same key.
    public_key = load_pem_private_key(key.read_bytes(), b"secret").public_key()
    assert load_pem_private_key(java_key.encode(), None).public_key() == public_key
    assert librdkafka_options(settings)["ssl.key.location"] == str(key)
    assert librdkafka_options(settings)["ssl.key.password"] == "secret"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, ["SASL_SSL", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"]),
        (
            {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_username": "lake"},
            ["SASL_PLAINTEXT", "KAFKA_SASL_PASSWORD"],
        ),
        (USER, ["PLAINTEXT", "SASL_SSL", "KAFKA_SASL_USERNAME"]),
        ({**USER, "kafka_security_protocol": "SSL"}, ["SSL", "SASL_SSL", "KAFKA_SASL_USERNAME"]),
        (
            {**USER, "kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ssl_ca_file": "ca.pem"},
            ["SASL_PLAINTEXT", "SASL_SSL", "KAFKA_SSL_CA_FILE"],
        ),
        ({"kafka_ssl_ca_file": "ca.pem"}, ["PLAINTEXT", "SSL", "KAFKA_SSL_CA_FILE"]),
        (
            {"kafka_security_protocol": "SSL", "kafka_ssl_cert_file": "client.pem"},
            ["KAFKA_SSL_CERT_FILE", "KAFKA_SSL_KEY_FILE"],
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_ssl_key_file": "client.pem"},
            ["KAFKA_SSL_KEY_FILE", "KAFKA_SSL_CERT_FILE"],
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_ssl_key_password": "x"},
            ["KAFKA_SSL_KEY_PASSWORD", "KAFKA_SSL_KEY_FILE"],
        ),
        (
            {**USER, "kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"},
            ["OAUTHBEARER", "KAFKA_OAUTH_TOKEN_URL"],
        ),
        (
            {**CLIENT, "kafka_sasl_mechanism": "PLAIN", "kafka_oauth_scope": "one"},
            ["PLAIN", "KAFKA_OAUTH_TOKEN_URL", "KAFKA_OAUTH_SCOPE"],
        ),
        *(
            ({**CLIENT, "kafka_oauth_token_url": url}, ["KAFKA_OAUTH_TOKEN_URL"])
            for url in (
                "identity.example",
                "https://identity.example:port/token",
                "https://identity.example:70000/token",
                "https://id" + ":p@identity.example/token",
                "https://identity.example/token?code=1",
            )
        ),
        ({**CLIENT, "kafka_sasl_username": "la:ke"}, ["KAFKA_SASL_USERNAME", "colon"]),
        ({"kafka_security_protocol": "TLS"}, ["KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", "SSL", "SASL_PLAINTEXT"]),
        ({**USER, "kafka_sasl_mechanism": "GSSAPI"}, ["KAFKA_SASL_MECHANISM", "SCRAM-SHA-512", "OAUTHBEARER"]),
        ({**USER, "kafka_sasl_username": "lake\n"}, ["KAFKA_SASL_USERNAME", "control characters"]),
    ],
)
def test_incompatible_settings_are_rejected_with_the_next_step(fields: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(SettingsError) as rejection:
        secure(**fields)
    # Entire words: SASL_SSL does not count as the protocol SSL.
    words = set(re.findall(r"[\w-]+", str(rejection.value).replace("CRYPTOLAKE_KAFKA_", "KAFKA_")))
    assert set(" ".join(expected).split()) <= words
    assert USER["kafka_sasl_password"] not in str(rejection.value)


def test_tls_without_bootstrap_servers_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"SECURITY_PROTOCOL is SSL, but KAFKA_BOOTSTRAP_SERVERS is empty"):
        load_settings(kafka_security_protocol="SSL")


@pytest.mark.parametrize("servers", ["broker", "broker:", "broker:0", "broker:70000", "http://broker:9092", "a:1,b"])
def test_invalid_server_address_is_rejected(servers: str) -> None:
    with pytest.raises(SettingsError, match=r"KAFKA_BOOTSTRAP_SERVERS: .*host:port"):
        load_settings(kafka_bootstrap_servers=servers)


def test_server_addresses_are_parsed() -> None:
    settings = load_settings(kafka_bootstrap_servers="a.example:9092, [::1]:9093,")
    assert settings.bootstrap_servers == "a.example:9092,[::1]:9093"
    assert settings.bootstrap_addresses == (("a.example", 9092), ("::1", 9093))


@pytest.mark.parametrize("options", [aiokafka_options, librdkafka_options, spark_options])
def test_unusable_file_is_reported_with_its_variable(options: Any, authority: Authority, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for ca_file in (tmp_path / "nowhere.pem", empty):
        with pytest.raises(SettingsError, match=rf"CRYPTOLAKE_KAFKA_SSL_CA_FILE: {ca_file} contains no usable"):
            options(secure(kafka_security_protocol="SSL", kafka_ssl_ca_file=ca_file))
    certificate, key = authority.sign("client", encrypted_with="secret")
    _, another_key = authority.sign("another")
    for fields in (
        {"kafka_ssl_key_file": another_key},
        {"kafka_ssl_key_file": key, "kafka_ssl_key_password": "wrong"},
        {"kafka_ssl_key_file": key},
        {"kafka_ssl_key_file": tmp_path / "nowhere.pem"},
    ):
        settings = secure(kafka_security_protocol="SSL", kafka_ssl_cert_file=certificate, **fields)
        with pytest.raises(
            SettingsError, match=r"CRYPTOLAKE_KAFKA_SSL_CERT_FILE: .* certificate for the key in CRYPTOLAKE_KAFKA"
        ):
            options(settings)


def test_broker_certificate_is_verified_against_its_host() -> None:
    context = ssl_context(secure(kafka_security_protocol="SSL"))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_secrets_are_hidden_and_only_passed_to_parts_that_use_kafka() -> None:
    settings = secure(**USER, kafka_security_protocol="SASL_SSL")
    assert USER["kafka_sasl_password"] not in repr(settings) + str(settings)
    parts = {
        part.name
        for part in PARTS
        if "CRYPTOLAKE_KAFKA_SASL_PASSWORD" in part.spec(settings)["environment"]  # type: ignore[operator]
    }
    assert {"producer", "bronze", "api"} <= parts
    assert not parts & {"kafka", "spark", "exchange", "dashboard", "dagster-webserver", "dagster-daemon"}


def test_disconnect_during_the_tls_handshake_is_no_access_error() -> None:
    assert not is_access_error(ssl.SSLEOFError())
    assert is_access_error(ssl.SSLCertVerificationError())
    assert is_access_error(ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]"))


async def test_access_error_names_the_setting_to_correct() -> None:
    from aiokafka import errors

    settings = secure(**USER, kafka_security_protocol="SASL_SSL")
    for error, variable in (
        (errors.SaslAuthenticationFailed("no"), "CRYPTOLAKE_KAFKA_SASL_PASSWORD"),
        (errors.UnsupportedSaslMechanismError("no"), "CRYPTOLAKE_KAFKA_SASL_MECHANISM"),
        (errors.IllegalSaslStateError("no"), "CRYPTOLAKE_KAFKA_SECURITY_PROTOCOL"),
        (ssl.SSLCertVerificationError("no"), "CRYPTOLAKE_KAFKA_SSL_CA_FILE"),
        (ssl.SSLError("no"), "CRYPTOLAKE_KAFKA_SSL_CERT_FILE"),
        (errors.TopicAuthorizationFailedError("no"), "Grant the user the permission"),
    ):
        rejection = await broker_error(settings, "read", error)
        assert isinstance(rejection, BrokerAccessError)
        assert variable in str(rejection)
        assert SERVERS in str(rejection)


async def test_unreachable_brokers_are_no_access_error() -> None:
    settings = load_settings(kafka_bootstrap_servers="127.0.0.1:9")
    error = await broker_error(settings, "read", ConnectionRefusedError())
    assert isinstance(error, BrokerError)
    assert not isinstance(error, BrokerAccessError)
    assert "CRYPTOLAKE_KAFKA_SECURITY_PROTOCOL" in str(error)
    assert str(kafka.access_problem(settings)).startswith("ConnectionRefusedError")


def test_access_errors_of_javas_client_are_recognized() -> None:
    settings = secure(**USER, kafka_security_protocol="SASL_SSL")
    message = (
        "terminated with exception: org.apache.kafka.common.errors.SaslAuthenticationException: invalid credentials"
    )
    assert "CRYPTOLAKE_KAFKA_SASL_PASSWORD" in str(java_access_error(settings, message))
    message = "org.apache.kafka.common.errors.GroupAuthorizationException: Not authorized to access group"
    assert "permission" in str(java_access_error(settings, message))
    assert java_access_error(settings, "org.apache.kafka.common.errors.TimeoutException: no answer") is None
