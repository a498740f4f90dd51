"""The listener's certificate: the files to a TLS context, and the day on which it ends."""

import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509

from service.config import ConfigurationError, Server
from service.telemetry import metrics


def tls_context(server: Server) -> ssl.SSLContext | None:
    """Return the context for these settings, None without a certificate.

    Raises ConfigurationError, as does load().
    """
    if server.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load(context, server)
    return context


def load(context: ssl.SSLContext, server: Server) -> None:
    """Let new connections of the context be given the certificate that the files hold now."""
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
            f"server.tls_certificate: {server.tls_certificate} and {server.tls_key} hold no"
            " certificate with its key; expected PEM, a key without a password"
        ) from None


def export_expiry(server: Server) -> None:
    """Let the metrics tell when the certificate ends that is now in use."""
    end = ends_at(server)
    metrics.CERTIFICATE_END.set(end.timestamp() if end else 0)


def ends_at(server: Server) -> datetime | None:
    """Return the day and hour on which the certificate ends, None without one.

    Raises ConfigurationError.
    """
    if server.tls_certificate is None:
        return None
    try:
        pem = _read("tls_certificate", server.tls_certificate)
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc
    except ValueError:
        raise ConfigurationError(
            f"server.tls_certificate: {server.tls_certificate} holds no certificate (PEM)"
        ) from None


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"server.{setting}: cannot read {path}: {reason}") from None


def _no_password() -> str:
    """Answer where OpenSSL would ask on the terminal."""
    return ""
