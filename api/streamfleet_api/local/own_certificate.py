"""A self-signed certificate for a fleet that other machines can reach, when none was given."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from streamfleet_api.web.access_policy import address_of
from streamfleet_api.web.tls import CertificateFiles
from streamfleet_core.runtime.private_file import write_private

_LIFE = datetime.timedelta(days=3650)  # clients pin it, so it must not change
_BEFORE = datetime.timedelta(days=1)  # the clocks of clients differ


def own_certificate(folder: Path, hosts: Iterable[str]) -> CertificateFiles:
    """The certificate in this folder. If there is none, make one for these names and addresses.

    Raises: OSError, ImportError without the package `cryptography`.
    """
    files = CertificateFiles(folder / "tls-cert.pem", folder / "tls-key.pem")
    if not files.state():
        certificate, key = _made([*hosts, "localhost", socket.gethostname(), "127.0.0.1", "::1"])
        write_private(files.key, key)
        write_private(files.certificate, certificate)
    return files


def _made(hosts: Iterable[str]) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Streamfleet")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [
        x509.DNSName(host) if address_of(host) is None else x509.IPAddress(ipaddress.ip_address(host))
        for host in dict.fromkeys(hosts)
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1)
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
