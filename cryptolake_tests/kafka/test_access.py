"""How each client is told to connect, and which settings cannot work; what brokers say is in the integration tests."""

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


def test_without_security_the_clients_are_told_where_the_brokers_are() -> None:
    settings = load_settings(kafka_port=19092)
    assert aiokafka_options(settings)["bootstrap_servers"] == "127.0.0.1:19092"
    assert aiokafka_options(settings)["security_protocol"] == "PLAINTEXT"
    assert "ssl_context" not in aiokafka_options(settings)
    assert librdkafka_options(settings)["security.protocol"] == "PLAINTEXT"
    assert spark_options(settings) == {
        "kafka.bootstrap.servers": "127.0.0.1:19092",
        "kafka.security.protocol": "PLAINTEXT",
    }


def test_every_client_shows_the_same_user_to_the_same_brokers(authority: Authority) -> None:
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
def test_every_client_fetches_its_token_at_the_same_place(scope: str) -> None:
    settings = secure(**CLIENT, kafka_oauth_scope=scope)
    options = aiokafka_options(settings)
    assert isinstance(options["sasl_oauth_token_provider"], ClientCredentials)
    assert options["sasl_mechanism"] == "OAUTHBEARER"
    assert "sasl_plain_username" not in options
    in_c = librdkafka_options(settings)
    assert {name: value for name, value in in_c.items() if name.startswith("sasl.")} == {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "lake",
        "sasl.oauthbearer.client.secret": 'p"a\\ss',
        "sasl.oauthbearer.token.endpoint.url": "https://identity.example/token",
        **({"sasl.oauthbearer.scope": scope} if scope else {}),
    }
    in_java = spark_options(settings)
    assert {name: value for name, value in in_java.items() if ".sasl." in name} == {
        "kafka.sasl.mechanism": "OAUTHBEARER",
        "kafka.sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
        'clientId="lake" clientSecret="p\\"a\\\\ss"' + (f' scope="{scope}"' if scope else "") + ";",
        "kafka.sasl.login.callback.handler.class": "org.apache.kafka.common.security.oauthbearer."
        "OAuthBearerLoginCallbackHandler",
        "kafka.sasl.oauthbearer.token.endpoint.url": "https://identity.example/token",
    }


@pytest.mark.parametrize("one_file", [False, True])
def test_a_clients_certificate_goes_to_java_with_its_key_in_the_clear_and_nothing_else(
    authority: Authority, tmp_path: Path, one_file: bool
) -> None:
    certificate, key = authority.sign("client", sealed_with="secret")
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
    # It is the same key.
    mine = load_pem_private_key(key.read_bytes(), b"secret").public_key()
    assert load_pem_private_key(java_key.encode(), None).public_key() == mine
    assert librdkafka_options(settings)["ssl.key.location"] == str(key)
    assert librdkafka_options(settings)["ssl.key.password"] == "secret"


@pytest.mark.parametrize(
    ("fields", "named"),
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
        ({**USER, "kafka_sasl_username": "lake\n"}, ["KAFKA_SASL_USERNAME", "line end"]),
    ],
)
def test_settings_that_cannot_work_together_are_rejected_with_what_to_do(
    fields: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(SettingsError) as refusal:
        secure(**fields)
    # Whole words: the protocol SSL is not told by SASL_SSL.
    words = set(re.findall(r"[\w-]+", str(refusal.value).replace("CRYPTOLAKE_KAFKA_", "KAFKA_")))
    assert set(" ".join(named).split()) <= words
    assert USER["kafka_sasl_password"] not in str(refusal.value)


def test_the_local_broker_is_not_asked_for_what_it_has_not() -> None:
    with pytest.raises(SettingsError, match=r"SECURITY_PROTOCOL is SSL, but KAFKA_BOOTSTRAP_SERVERS is empty"):
        load_settings(kafka_security_protocol="SSL")


@pytest.mark.parametrize("servers", ["broker", "broker:", "broker:0", "broker:70000", "http://broker:9092", "a:1,b"])
def test_an_address_without_a_port_is_rejected(servers: str) -> None:
    with pytest.raises(SettingsError, match=r"KAFKA_BOOTSTRAP_SERVERS: .*host:port"):
        load_settings(kafka_bootstrap_servers=servers)


def test_addresses_are_taken_apart() -> None:
    settings = load_settings(kafka_bootstrap_servers="a.example:9092, [::1]:9093,")
    assert settings.bootstrap_servers == "a.example:9092,[::1]:9093"
    assert settings.bootstrap_addresses == (("a.example", 9092), ("::1", 9093))


@pytest.mark.parametrize("options", [aiokafka_options, librdkafka_options, spark_options])
def test_files_that_do_not_fit_are_named_with_their_variable(
    options: Any, authority: Authority, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for ca_file in (tmp_path / "nowhere.pem", empty):
        with pytest.raises(SettingsError, match=rf"CRYPTOLAKE_KAFKA_SSL_CA_FILE: {ca_file} does not give"):
            options(secure(kafka_security_protocol="SSL", kafka_ssl_ca_file=ca_file))
    certificate, key = authority.sign("client", sealed_with="secret")
    _, another_key = authority.sign("another")
    for fields in (
        {"kafka_ssl_key_file": another_key},
        {"kafka_ssl_key_file": key, "kafka_ssl_key_password": "wrong"},
        {"kafka_ssl_key_file": key},
        {"kafka_ssl_key_file": tmp_path / "nowhere.pem"},
    ):
        settings = secure(kafka_security_protocol="SSL", kafka_ssl_cert_file=certificate, **fields)
        with pytest.raises(SettingsError, match=r"CRYPTOLAKE_KAFKA_SSL_CERT_FILE: .* whose key is in CRYPTOLAKE_KAFKA"):
            options(settings)


def test_a_certificate_is_held_against_its_host() -> None:
    context = ssl_context(secure(kafka_security_protocol="SSL"))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_secrets_are_not_shown_and_stay_with_those_who_need_them() -> None:
    settings = secure(**USER, kafka_security_protocol="SASL_SSL")
    assert USER["kafka_sasl_password"] not in repr(settings) + str(settings)
    carrying = {
        part.name
        for part in PARTS
        if "CRYPTOLAKE_KAFKA_SASL_PASSWORD" in part.spec(settings)["environment"]  # type: ignore[operator]
    }
    assert {"producer", "bronze", "api"} <= carrying
    assert not carrying & {"kafka", "spark", "exchange", "dashboard", "dagster-webserver", "dagster-daemon"}


def test_a_tls_connection_that_is_cut_is_no_refusal() -> None:
    assert not is_access_error(ssl.SSLEOFError())
    assert is_access_error(ssl.SSLCertVerificationError())
    assert is_access_error(ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]"))


async def test_a_refusal_says_what_to_do() -> None:
    from aiokafka import errors

    settings = secure(**USER, kafka_security_protocol="SASL_SSL")
    for error, variable in (
        (errors.SaslAuthenticationFailed("no"), "CRYPTOLAKE_KAFKA_SASL_PASSWORD"),
        (errors.UnsupportedSaslMechanismError("no"), "CRYPTOLAKE_KAFKA_SASL_MECHANISM"),
        (errors.IllegalSaslStateError("no"), "CRYPTOLAKE_KAFKA_SECURITY_PROTOCOL"),
        (ssl.SSLCertVerificationError("no"), "CRYPTOLAKE_KAFKA_SSL_CA_FILE"),
        (ssl.SSLError("no"), "CRYPTOLAKE_KAFKA_SSL_CERT_FILE"),
        (errors.TopicAuthorizationFailedError("no"), "Give the user the right"),
    ):
        refusal = await broker_error(settings, "read", error)
        assert isinstance(refusal, BrokerAccessError)
        assert variable in str(refusal)
        assert SERVERS in str(refusal)


async def test_brokers_that_are_away_are_no_refusal() -> None:
    settings = load_settings(kafka_bootstrap_servers="127.0.0.1:9")
    error = await broker_error(settings, "read", ConnectionRefusedError())
    assert isinstance(error, BrokerError)
    assert not isinstance(error, BrokerAccessError)
    assert "CRYPTOLAKE_KAFKA_SECURITY_PROTOCOL" in str(error)
    assert str(kafka.access_problem(settings)).startswith("ConnectionRefusedError")


def test_what_javas_client_says_is_understood() -> None:
    settings = secure(**USER, kafka_security_protocol="SASL_SSL")
    said = "terminated with exception: org.apache.kafka.common.errors.SaslAuthenticationException: invalid credentials"
    assert "CRYPTOLAKE_KAFKA_SASL_PASSWORD" in str(java_access_error(settings, said))
    said = "org.apache.kafka.common.errors.GroupAuthorizationException: Not authorized to access group"
    assert "right" in str(java_access_error(settings, said))
    assert java_access_error(settings, "org.apache.kafka.common.errors.TimeoutException: no answer") is None
