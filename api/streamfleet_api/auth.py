"""Who may ask: programs on this host, trusted networks, and whoever holds the operator's token. (S6)

A device's session ticket opens the bulk addresses, for reading, and nothing else.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from streamfleet_api.errors import answer
from streamfleet_api.link import Link, LinkError
from streamfleet_api.problems import Problem
from streamfleet_broker.protocol.keyfile import read_private, write_private
from streamfleet_broker.protocol.requests import CheckTicket

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_OPEN = frozenset({"/healthz", "/readyz"})
_BULK = "/v2/blobs/"
_FORWARDED = ("forwarded", "x-forwarded-for")


def load_token(path: Path) -> tuple[str, bool]:
    """The operator's token of this api, and whether it was made just now. Raises: KeyExposed, OSError."""
    if path.exists():
        return read_private(path).decode("ascii").strip(), False
    token = secrets.token_urlsafe(32)
    write_private(path, token.encode("ascii") + b"\n")
    return token, True


@dataclass(frozen=True, slots=True)
class Door:
    """The rule, without I/O."""

    token: str = field(repr=False)
    trust: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()  # by which programs on this host may call it, besides addresses

    def admits(self, peer: str | None, headers: Headers) -> bool:
        """May this peer do everything?"""
        bearer = bearer_of(headers)
        if bearer is not None and hmac.compare_digest(bearer.encode(), self.token.encode()):
            return True
        address = _address(peer)
        if address is None:
            return False
        if any(address in network for network in self.trust):
            return True
        return address.is_loopback and self._asks_directly(headers)

    def _asks_directly(self, headers: Headers) -> bool:
        """Not through a proxy on this host, nor from a web page whose name was rebound to this host."""
        if any(name in headers for name in _FORWARDED):
            return False
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        return host in self.names or _address(host) is not None


def names_of_this_host() -> frozenset[str]:
    """What programs on this host may call it."""
    return frozenset({"localhost", "ip6-localhost", socket.gethostname().lower()})


def bearer_of(headers: Headers) -> str | None:
    """The token in `Authorization: Bearer …`, or None."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


class Authorise:
    """The one place that every request passes."""

    def __init__(self, app: ASGIApp, door: Door, link: Link) -> None:
        self._app = app
        self._door = door
        self._link = link

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        peer = scope["client"][0] if scope.get("client") else None
        if self._door.admits(peer, headers) or await self._opens_bulk(scope, headers):
            await self._app(scope, receive, send)
            return
        refusal = Problem(
            401,
            "expected the operator's token as 'Authorization: Bearer TOKEN'; the host of the api keeps it in "
            "its data directory, in api/token",
            headers={"www-authenticate": "Bearer"},
        )
        await answer(Request(scope), refusal)(scope, receive, send)

    async def _opens_bulk(self, scope: Scope, headers: Headers) -> bool:
        ticket = bearer_of(headers)
        if ticket is None or scope["method"] not in ("GET", "HEAD") or not scope["path"].startswith(_BULK):
            return False
        try:
            return isinstance(await self._link.ask(CheckTicket(ticket), object, timeout=2.0), str)
        except LinkError:
            return False


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
