"""TLS that verifies a server by the fingerprint of its certificate instead of its name and issuer."""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
from pathlib import Path

from typing_extensions import Self

from streamfleet_core.protocol.limits import SHA256_PATTERN
from streamfleet_core.runtime.small_file import read_small

FINGERPRINT = re.compile(SHA256_PATTERN)  # sha256 of the certificate as DER
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def fingerprint_of(pem: str) -> str:
    """The fingerprint of the first certificate in a PEM file. Raises: ValueError."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("expected a PEM certificate, got none")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest()


def parse_fingerprint(text: str) -> str:
    """Parse a fingerprint as `openssl x509 -fingerprint -sha256` or we print it. Raises: ValueError."""
    plain = text.rpartition("=")[2].replace(":", "").strip().lower()
    if not FINGERPRINT.fullmatch(plain):
        raise ValueError(f"expected the sha256 of a certificate as 64 hexadecimal digits, got {text[:80]!r}")
    return plain


class PinnedContext(ssl.SSLContext):
    """A client context: the handshake fails for any other certificate, before any data is sent."""

    fingerprint: str

    def __new__(cls, fingerprint: str) -> Self:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.fingerprint = fingerprint
        return context

    def __init__(self, _pin: object) -> None:
        self.minimum_version = ssl.TLSVersion.TLSv1_2
        self.check_hostname = False
        self.verify_mode = ssl.CERT_NONE  # the classes below verify instead
        self.sslsocket_class = _PinnedSocket
        self.sslobject_class = _PinnedObject

    def expected(self) -> str:
        """The fingerprint to expect. Called at each handshake."""
        return self.fingerprint


class FilePinnedContext(PinnedContext):
    """The same for a local server that writes its current fingerprint to a file, as it may change."""

    path: Path

    def __new__(cls, path: Path) -> Self:
        context = super().__new__(cls, "")
        context.path = path
        return context

    def expected(self) -> str:
        """Read the fingerprint. Raises: ssl.SSLCertVerificationError."""
        try:
            return parse_fingerprint(read_small(self.path).decode("ascii"))
        except (OSError, ValueError) as exc:
            raise ssl.SSLCertVerificationError(1, f"{self.path}: no fingerprint can be read: {exc}") from exc


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, and verify the certificate. Raises: ssl.SSLCertVerificationError."""
        super().do_handshake(block)
        _check(self.context, self.getpeercert(binary_form=True))


class _PinnedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        """Shake hands, and verify the certificate. Raises: ssl.SSLCertVerificationError."""
        super().do_handshake()
        _check(self.context, self.getpeercert(binary_form=True))


def _check(context: ssl.SSLContext, certificate: bytes | None) -> None:
    assert isinstance(context, PinnedContext)
    expected = context.expected()
    shown = hashlib.sha256(certificate or b"").hexdigest()
    if not hmac.compare_digest(shown, expected):
        raise ssl.SSLCertVerificationError(1, f"expected the certificate {expected[:16]}…, got {shown[:16]}…")
