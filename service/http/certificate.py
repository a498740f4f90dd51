"""The listener's certificate: its TLS context and its expiry."""

import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509

from service.config import ConfigurationError, Server
from service.telemetry import metrics


def make_tls_context(server: Server) -> ssl.SSLContext | None:
    """Return the TLS context; None without a certificate. Raises ConfigurationError."""
    if server.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load(context, server)
    return context


def load(context: ssl.SSLContext, server: Server) -> None:
    """Load the certificate from its files, for new connections. Raises ConfigurationError."""
    for setting, path in (
        ("tls_certificate", server.tls_certificate),
        ("tls_key", server.tls_key),
    ):
        assert path is not None
        _read(setting, path)
    assert server.tls_certificate is not None
    try:
        context.load_cert_chain(server.tls_certificate, server.tls_key, _no_password)
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(
            f"server.tls_certificate: {server.tls_certificate} and {server.tls_key} are not a"
            " certificate with its key; expected PEM files, the key without a password"
        ) from None


def export_expiry(server: Server) -> None:
    """Export the expiry time of the active certificate."""
    expiry = get_expiry(server)
    metrics.CERTIFICATE_END.set(expiry.timestamp() if expiry else 0)


def get_expiry(server: Server) -> datetime | None:
    """Return the expiry time in UTC; None without a certificate. Raises ConfigurationError."""
    if server.tls_certificate is None:
        return None
    try:
        pem = _read("tls_certificate", server.tls_certificate)
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc
    except ValueError:
        raise ConfigurationError(
            f"server.tls_certificate: {server.tls_certificate} does not contain a certificate (PEM)"
        ) from None


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"server.{setting}: cannot read {path}: {reason}") from None


def _no_password() -> str:
    """Return an empty password, so that OpenSSL does not ask on the terminal."""
    return ""
