"""Certificates of an authority of one's own, as a team makes for its Dask cluster."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
"""Whom certificates are of, for programs that ask for more than an authority."""


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """Signs certificates; its files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.name = folder, folder.name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / "ca.pem"
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self._write(self.ca, self._signed(self.name, self.key, 1, basic))

    def issue(self, name: str, *, days: int = 1) -> tuple[Path, Path]:
        """Files of a certificate and of its key; `days` until it expires."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        basic = x509.BasicConstraints(ca=False, path_length=None)
        self._write(cert, self._signed(name, key, days, basic))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert, secret

    def options(self, name: str) -> dict[str, str]:
        """`cluster.options` of one to whom a certificate is issued."""
        cert, key = self.issue(name)
        return {"ca": str(self.ca), "cert": str(cert), "key": str(key)}

    def _signed(
        self, name: str, key: ec.EllipticCurvePrivateKey, days: int, basic: x509.BasicConstraints
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 9 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(basic, critical=True)
            .add_extension(x509.SubjectAlternativeName([HERE]), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, file: Path, certificate: x509.Certificate) -> None:
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
