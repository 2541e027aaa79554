"""The certificate of HTTPS, read again when its files change: it can be renewed without a restart. (S29)"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from streamfleet_core.runtime.pinned_tls import fingerprint_of
from streamfleet_core.runtime.small_file import read_small

logger = logging.getLogger(__name__)

_READABLE_BY_OTHERS = 0o007
_MAX_PEM = 1024**2  # bytes: a certificate may come with many above it


class BadCertificate(Exception):
    """Files that are no certificate and its key."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files; the certificate's may hold those above it too, or all."""

    certificate: Path
    key: Path

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Differs when one of them was written again; empty when one is missing."""
        try:
            found = [path.stat() for path in (self.certificate, self.key)]
        except OSError:
            return ()
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)

    def read(self) -> tuple[ssl.SSLContext, str]:
        """Load the certificate, and return its TLS context and fingerprint. Raises: BadCertificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A ticket follows the handshake. Clients of Python before 3.13 that read and write in two threads, as
        # those of `websockets.sync`, sometimes lose their first request while they take it in.
        context.num_tickets = 0
        try:
            if self.key.stat().st_mode & _READABLE_BY_OTHERS:
                raise BadCertificate(f"others may read the key {self.key}: run 'chmod 600 {self.key}'")
            # OpenSSL reads files of any size.
            pem = read_small(self.certificate, most=_MAX_PEM).decode("ascii")
            read_small(self.key, most=_MAX_PEM)
            # A key with a password would ask for it on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            return context, fingerprint_of(pem)
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            text = "expected a certificate and its key without a password, as PEM"
            raise BadCertificate(f"{text}, got {self.certificate} and {self.key}: {exc}") from exc


class Certificate:
    """The files, and what was read of them last."""

    def __init__(self, files: CertificateFiles, fingerprint_path: Path) -> None:
        """Programs on this host read in `fingerprint_path` which certificate is ours.

        Raises: BadCertificate, OSError.
        """
        self._files = files
        self._fingerprint_path = fingerprint_path
        self._state = files.state()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """The TLS context for a new connection. Unreadable files, as during a renewal, change nothing."""
        state = self._files.state()
        if state != self._state:
            self._state = state
            try:
                self._context = self._read()
                logger.info("%s: this certificate is served from now on", self._files.certificate)
            except (BadCertificate, OSError) as exc:
                logger.warning("the old certificate is served still: %s", exc)
        return self._context

    def _read(self) -> ssl.SSLContext:
        context, fingerprint = self._files.read()
        self._fingerprint_path.write_text(fingerprint, "ascii")
        return context
