"""The selection of a Java, and a JVM's certificates and proxy from the user's environment."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cryptolake_assets.errors import JavaNotFoundError
from cryptolake_assets.platform import jvm, truststore
from cryptolake_assets.platform.spark_server import spark_home


def fake_java(directory: Path, version: str, exit_code: int = 0) -> Path:
    """Make an executable `java` that prints its version to standard error, like a real one."""
    path = directory / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{version}' >&2\nexit {exit_code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Hide every Java of this machine."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    jvm.find_java.cache_clear()
    yield
    jvm.find_java.cache_clear()


def test_java_home_takes_precedence_over_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = fake_java(tmp_path / "home", 'openjdk version "21.0.8" 2025-07-15')
    on_path = fake_java(tmp_path / "path", 'openjdk version "17.0.15" 2025-04-15')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert jvm.find_java() == jvm.Java(home, 21, "JAVA_HOME")


@pytest.mark.parametrize("version", ['openjdk version "25" 2025-09-16', 'java version "1.8.0_421"', "no java here"])
def test_unsupported_java_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    fake_java(tmp_path / "home", version)
    on_path = fake_java(tmp_path / "path", 'openjdk version "17.0.15" 2025-04-15')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert jvm.find_java() == jvm.Java(on_path, 17, "PATH")


def test_missing_java_names_the_rejected_candidates_and_the_next_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # macOS has a `java` that only prints where to get one.
    stub = fake_java(tmp_path / "path", "Unable to locate a Java Runtime", exit_code=1)
    fake_java(tmp_path / "home", 'openjdk version "11.0.2" 2019-01-15')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(stub.parent))
    with pytest.raises(JavaNotFoundError) as error:
        jvm.find_java()
    for part in ("is Java 11", f"{stub} is not a working Java", "make setup", "JAVA_HOME"):
        assert part in str(error.value)


def certificate(name: str) -> bytes:
    """Return a self-signed CA in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


MALFORMED = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_malformed_certificate_is_skipped(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"# a comment\n" + certificate("one") + MALFORMED + certificate("two"))
    assert truststore.write_truststore(bundle, tmp_path / "lib" / "store.p12") == 2


def test_jvm_reads_the_trust_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from py4j.java_gateway import JavaGateway  # type: ignore[import-untyped]

    monkeypatch.undo()  # this test requires the machine's Java
    store = tmp_path / "store.p12"
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(certificate("one") + certificate("two"))
    truststore.write_truststore(bundle, store)
    jvm.find_java.cache_clear()
    gateway = JavaGateway.launch_gateway(
        java_path=str(jvm.find_java().executable),
        jarpath=str(next((spark_home() / "jars").glob("py4j-*.jar"))),
        die_on_exit=True,
    )
    try:
        keys = gateway.jvm.java.security.KeyStore.getInstance("PKCS12")
        password = gateway.new_array(gateway.jvm.char, len(truststore.STORE_PASSWORD))
        for position, char in enumerate(truststore.STORE_PASSWORD):
            password[position] = char
        keys.load(gateway.jvm.java.io.FileInputStream(str(store)), password)
        trusted = [alias for alias in ("ca-0", "ca-1", "ca-2") if keys.isCertificateEntry(alias)]
    finally:
        gateway.shutdown()
    assert trusted == ["ca-0", "ca-1"]


def test_first_readable_bundle_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "pip.pem"
    bundle.write_bytes(certificate("one"))
    for variable in truststore.CA_BUNDLE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert truststore.ca_bundle() is None
    assert "trustStore" not in str(truststore.network_options(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    monkeypatch.setenv("PIP_CERT", str(bundle))
    assert truststore.ca_bundle() == bundle
    assert "-Djavax.net.ssl.trustStore=" in str(truststore.network_options(tmp_path))


def test_proxy_is_passed_to_the_jvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost,.example.org")
    options = truststore.network_options(tmp_path)
    assert {"-Dhttps.proxyHost=proxy.example", "-Dhttps.proxyPort=3128"} <= set(options)
    assert "-Dhttp.nonProxyHosts=localhost|*.example.org" in options
