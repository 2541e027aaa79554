"""Address, token and certificate of an API. This module opens no connection."""

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
    """Address and credentials of a fleet's API, with the same defaults as the command line.

    The defaults are enough for a fleet on this machine, whose data directory has the token and the
    certificate. For a fleet on another machine, give the token, and for `https` a CA file or the fingerprint.

    Args:
        url: The URL of the API.
        token: The operator's token. None: the token in `data_dir`, if `url` is this machine.
        ca_file: A PEM file with the issuer of the API's certificate.
        fingerprint: The SHA-256 of the API's certificate in hexadecimal, as `streamfleet up` prints it.
        data_dir: The data directory of a fleet on this machine.

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
        """Create a connection from the environment variables of the command line.

        They are STREAMFLEET_URL, STREAMFLEET_TOKEN, STREAMFLEET_CA, STREAMFLEET_FINGERPRINT and
        STREAMFLEET_DATA_DIR.

        Args:
            environment: The variables. None: the environment of this process.
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
        """The URL without user name and password, for messages."""
        return str(sanitised(self.url.rstrip("/")))

    @property
    def folder(self) -> Path:
        """The data directory, with `~` replaced by the home directory."""
        return self.data_dir.expanduser()

    def known_token(self) -> str | None:
        """Return the given token, or the token of the fleet on this machine. None: no token is known."""
        return self.token or token_for(self.url, self.folder / "api/token")

    def headers(self) -> dict[str, str]:
        """Return the authorization header, if a token is known. Raises: BadSetting."""
        token = self.known_token()
        if not token:
            return {}
        if not (token.isascii() and token.isprintable()):
            raise BadSetting("token", "expected visible ASCII characters, got others")
        return {"authorization": f"Bearer {token}"}

    def verification(self) -> ssl.SSLContext | bool:
        """Return the `verify` argument of httpx for this connection. Raises: BadSetting."""
        file = self.folder / "api/fingerprint"
        return verification(self.url, file, fingerprint=self.fingerprint, ca_file=self.ca_file)


def path_of(*parts: str) -> str:
    """Return a URL path whose parts are escaped, so that a `/` in a part does not add a segment."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def token_for(url: str, token_file: Path) -> str | None:
    """Return the token of this host's fleet if the URL is this host. No other host gets the token."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # not a URL: the request reports it
        return None
    if not _is_this_host(host):
        return None
    try:
        return read_private(token_file).decode("ascii").strip()
    except (OSError, ProtocolError, UnicodeDecodeError):
        return None


def verification(
    url: str, fingerprint_file: Path, *, fingerprint: str | None, ca_file: Path | None
) -> ssl.SSLContext | bool:
    """Return the `verify` argument of httpx.

    In this order: the given fingerprint, the given CA file, the fingerprint file of a fleet on this host, the
    CAs of the system.

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
        if _is_this_host(host) and fingerprint_file.exists():
            return FilePinnedContext(fingerprint_file)
    except OSError as exc:  # ssl.SSLError too
        raise BadSetting("ca_file", f"{ca_file}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise BadSetting("fingerprint", str(exc)) from exc
    return True


def is_certificate_failure(exc: BaseException) -> bool:
    """Return whether the connection failed because the certificate was not accepted."""
    while (cause := exc.__cause__ or exc.__context__) is not None:
        exc = cause
    return isinstance(exc, ssl.SSLCertVerificationError)


def only_loopback(endpoints: Iterable[str]) -> bool:
    """Return whether all endpoints are loopback addresses, which other hosts cannot reach."""
    return all(_is_loopback(urlsplit(endpoint).hostname or "") for endpoint in endpoints)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a host name


def _is_this_host(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
        return all(_is_own(ipaddress.ip_address(address)) for address in addresses)
    except (OSError, ValueError):
        return False


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.is_loopback:
        return True
    import ifaddr  # imported late: it is slow, and most fleets are on loopback

    own = {str(ip.ip if ip.is_IPv4 else ip.ip[0]) for adapter in ifaddr.get_adapters() for ip in adapter.ips}
    return str(address) in own
