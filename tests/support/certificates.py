"""Certificates of a throwaway authority."""

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)


async def presented_subject(port: int, trusting: ssl.SSLContext) -> str:
    """Return the name in the certificate that a listener on 127.0.0.1 presents."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    presented = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    name: str = presented["subject"][0][0][1]
    return name


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        basic = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._certificate(self._name, self._key, (basic, True))
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _certificate(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: tuple[Any, bool],
        days: int = 1,
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=2))
            .not_valid_after(NOW + datetime.timedelta(days=days))
            .add_extension(*extension)
            .sign(self._key, hashes.SHA256())
        )

    def sign(self, name: str, days: int = 1) -> tuple[Path, Path]:
        """Write a certificate for 127.0.0.1 and its key, good for days; return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._certificate(subject, key, (address, False), days)
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(*pem, serialization.NoEncryption()))
        paths[1].chmod(0o600)
        return paths
