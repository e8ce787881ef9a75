"""Trust store and proxy options with which a JVM uses the certificates and proxy of the user's environment."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import structlog

log = structlog.get_logger(__name__)

CA_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
STORE_PASSWORD = "changeit"  # noqa: S105  (the JVM's customary one; the store holds public certificates only)

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def network_options(directory: Path) -> list[str]:
    """Return JVM options for TLS and proxies from the environment; write a trust store into `directory` if needed."""
    return [*_trust_options(directory), *_proxy_options()]


def ca_bundle() -> Path | None:
    """Return the PEM bundle that the user's environment names, if it is a readable file."""
    for variable in CA_BUNDLE_VARIABLES:
        path = Path(os.environ.get(variable) or os.devnull)
        if path.is_file() and os.access(path, os.R_OK):
            return path
    return None


def write_truststore(bundle: Path, store: Path) -> int:
    """Write the certificates of a PEM bundle as a PKCS12 trust store; return their number.

    Skip certificates that fail to parse or parse with a warning: one malformed CA must not block the others.
    """
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
    from cryptography.x509 import load_pem_x509_certificate

    entries = []
    for number, pem in enumerate(_CERTIFICATE.findall(bundle.read_bytes())):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                certificate = load_pem_x509_certificate(pem)
        except (ValueError, Warning) as error:
            log.debug("certificate_skipped", bundle=str(bundle), number=number, cause=str(error))
            continue
        entries.append(pkcs12.PKCS12Certificate(certificate, f"ca-{number}".encode()))
    if entries:
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(
            pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(STORE_PASSWORD.encode())),
        )
    return len(entries)


def _trust_options(directory: Path) -> list[str]:
    bundle = ca_bundle()
    if bundle is None:
        return []
    store = directory / "truststore.p12"
    if not write_truststore(bundle, store):
        log.warning("ca_bundle_skipped", bundle=str(bundle), cause="no valid certificate")
        return []
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}",
    ]


def _proxy_options() -> list[str]:
    options = []
    proxies = getproxies()
    for scheme in ("http", "https"):
        address = proxies.get(scheme, "")
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname:
            options += [f"-D{scheme}.proxyHost={parts.hostname}", f"-D{scheme}.proxyPort={parts.port or 80}"]
    if excluded := proxies.get("no"):
        # The JVM separates hosts with `|` and writes a domain's leading dot as `*.`.
        hosts = [host.strip() for host in excluded.split(",") if host.strip()]
        options.append("-Dhttp.nonProxyHosts=" + "|".join(f"*{h}" if h.startswith(".") else h for h in hosts))
    return options
