"""How a client knows its api and is known to it: token, certificate, addresses. It opens no connection."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from streamfleet.defaults import DEFAULT_DATA_DIR, DEFAULT_URL
from streamfleet.errors import BadSetting
from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.runtime.pinned_tls import FilePinnedContext, PinnedContext, parse_fingerprint
from streamfleet_core.runtime.private_file import read_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach the api of a fleet, with the same rules as the command line.

    On this machine nothing else is needed: the token and the certificate of the fleet are found in its data
    directory. Elsewhere, give the token, and for `https` a CA file or the fingerprint.

    Args:
        url: The address of the api.
        token: The operator's token. None: the one in the data directory, if `url` is this machine.
        ca_file: A file with the issuer of the api's certificate, as PEM.
        fingerprint: The SHA-256 of the api's certificate, in hexadecimal, which `streamfleet up` prints.
        data_dir: Where a fleet on this machine keeps its files.

    Example:
        ```python
        connection = Connection(url="https://fleet.example:8080", token=token, ca_file=Path("ca.pem"))
        ```
    """

    url: str = DEFAULT_URL
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    fingerprint: str | None = None
    data_dir: Path = Path(DEFAULT_DATA_DIR)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Connection:
        """Read the variables of the command line.

        They are STREAMFLEET_URL, STREAMFLEET_TOKEN, STREAMFLEET_CA, STREAMFLEET_FINGERPRINT and
        STREAMFLEET_DATA_DIR.

        Args:
            environment: The variables. None: those of this process.
        """
        known = os.environ if environment is None else environment
        ca_file = known.get("STREAMFLEET_CA")
        return cls(
            url=known.get("STREAMFLEET_URL") or DEFAULT_URL,
            token=known.get("STREAMFLEET_TOKEN") or None,
            ca_file=Path(ca_file) if ca_file else None,
            fingerprint=known.get("STREAMFLEET_FINGERPRINT") or None,
            data_dir=Path(known.get("STREAMFLEET_DATA_DIR") or DEFAULT_DATA_DIR),
        )

    @property
    def shown(self) -> str:
        """The address for people: without a user and a password."""
        return str(sanitised(self.url.rstrip("/")))

    @property
    def folder(self) -> Path:
        """The data directory, with `~` replaced by the home directory."""
        return self.data_dir.expanduser()

    def known_token(self) -> str | None:
        """The token that is given, or that of the fleet on this machine."""
        return self.token or token_for(self.url, self.folder / "api/token")

    def headers(self) -> dict[str, str]:
        """The header that tells who asks. Raises: BadSetting."""
        token = self.known_token()
        if not token:
            return {}
        if not (token.isascii() and token.isprintable()):
            raise BadSetting("token", "expected visible ASCII characters, got others")
        return {"authorization": f"Bearer {token}"}

    def verification(self) -> ssl.SSLContext | bool:
        """How to check the certificate, as httpx takes it. Raises: BadSetting."""
        file = self.folder / "api/fingerprint"
        return verification(self.url, file, fingerprint=self.fingerprint, ca_file=self.ca_file)


def path_of(*parts: str) -> str:
    """A path of plain parts; nothing in a part can leave its place."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def token_for(url: str, token_file: Path) -> str | None:
    """The token that this host's own fleet keeps, if the URL is this host: no other host is shown it."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # not a URL: the request will say so
        return None
    if not _is_here(host):
        return None
    try:
        return read_private(token_file).decode("ascii").strip()
    except (OSError, ProtocolError, UnicodeDecodeError):
        return None


def verification(
    url: str, fingerprint_file: Path, *, fingerprint: str | None, ca_file: Path | None
) -> ssl.SSLContext | bool:
    """How to know the api: by what the operator says, as our own on this host, or as browsers do.

    Raises: BadSetting.
    """
    try:
        address = urlsplit(url)
        host = address.hostname or ""
    except ValueError:
        return True
    if address.scheme != "https":
        return True
    try:
        if fingerprint is not None:
            return PinnedContext(parse_fingerprint(fingerprint))
        if ca_file is not None:
            return ssl.create_default_context(cafile=ca_file)
        if _is_here(host) and fingerprint_file.exists():
            return FilePinnedContext(fingerprint_file)
    except OSError as exc:  # ssl.SSLError too
        raise BadSetting("ca_file", f"{ca_file}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise BadSetting("fingerprint", str(exc)) from exc
    return True


def is_certificate_failure(exc: BaseException) -> bool:
    """Whether the connection failed because the certificate is not the expected one."""
    while (cause := exc.__cause__ or exc.__context__) is not None:
        exc = cause
    return isinstance(exc, ssl.SSLCertVerificationError)


def only_here(endpoints: Iterable[str]) -> bool:
    """Whether these endpoints can be reached from this host alone."""
    return all(_is_loopback(urlsplit(endpoint).hostname or "") for endpoint in endpoints)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name


def _is_here(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
        return all(_is_own(ipaddress.ip_address(address)) for address in addresses)
    except (OSError, ValueError):
        return False


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.is_loopback:
        return True
    import ifaddr  # slow, and most fleets are on loopback

    own = {str(ip.ip if ip.is_IPv4 else ip.ip[0]) for adapter in ifaddr.get_adapters() for ip in adapter.ips}
    return str(address) in own
