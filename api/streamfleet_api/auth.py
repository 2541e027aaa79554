"""Who may ask: programs on this host, trusted networks, and whoever holds the operator's token. (S6)

A device's session ticket opens the blobs for reading and the samples for putting its own, and nothing else.
A page in a browser, which can send no header with a stream, opens one with a ticket that is good once and for
30 s. (S25)
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from streamfleet_api.errors import answer
from streamfleet_api.link import Link, LinkError
from streamfleet_api.problems import Problem
from streamfleet_broker.protocol.keyfile import read_private, write_private
from streamfleet_broker.protocol.requests import CheckTicket

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Whoever supervises this process, and the page where the token is entered: files, the same for everybody.
_OPEN = re.compile(r"/|/page/[^/]+|/healthz|/readyz")
_BULK = {"GET": "/v2/blobs/", "HEAD": "/v2/blobs/", "PUT": "/v2/samples/"}  # what a device does there
_STREAM = re.compile(r"/v2/(predictions|status|events|pipelines/[^/]+/pictures?)")
_FORWARDED = ("forwarded", "x-forwarded-for")


TICKET_TTL = 30.0  # seconds
MAX_TICKETS = 1_000


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


class Tickets:
    """Tickets that each open one stream, once and soon. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, float] = OrderedDict()  # by the sha256 of the ticket, oldest first

    def issue(self, now: float) -> str:
        """A new one; the oldest goes when there are too many."""
        ticket = secrets.token_urlsafe(32)
        self._ends[_digest(ticket)] = now + TICKET_TTL
        while len(self._ends) > MAX_TICKETS:
            self._ends.popitem(last=False)
        return ticket

    def redeem(self, ticket: str, now: float) -> bool:
        """Is it good? It is not any more."""
        return self._ends.pop(_digest(ticket), now) > now


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "replace")).digest()


def is_own_page(headers: Headers) -> bool:
    """Does a program ask, or a page that this api itself showed? No page of somebody else. (S27)"""
    origin = headers.get("origin")
    if origin is None:
        return True
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == headers.get("host", "").lower()


def names_of_this_host() -> frozenset[str]:
    """What programs on this host may call it."""
    return frozenset({"localhost", "ip6-localhost", socket.gethostname().lower()})


def bearer_of(headers: Headers) -> str | None:
    """The token in `Authorization: Bearer …`, or None."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


class Authorise:
    """The one place that every request passes."""

    def __init__(self, app: ASGIApp, door: Door, link: Link, tickets: Tickets) -> None:
        self._app = app
        self._door = door
        self._link = link
        self._tickets = tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _OPEN.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        peer = scope["client"][0] if scope.get("client") else None
        if (
            self._door.admits(peer, headers)
            or self._opens_stream(scope)
            or await self._opens_bulk(scope, headers)
        ):
            await self._app(scope, receive, send)
            return
        refusal = Problem(
            401,
            "expected the operator's token as 'Authorization: Bearer TOKEN'; the host of the api keeps it in "
            "its data directory, in api/token",
            headers={"www-authenticate": "Bearer"},
        )
        await answer(HTTPConnection(scope), refusal)(scope, receive, send)

    def _opens_stream(self, scope: Scope) -> bool:
        if scope.get("method", "GET") != "GET" or not _STREAM.fullmatch(scope["path"]):
            return False
        given = parse_qs(scope["query_string"].decode("ascii", "replace")).get("ticket", [])
        return len(given) == 1 and self._tickets.redeem(given[0], time.monotonic())

    async def _opens_bulk(self, scope: Scope, headers: Headers) -> bool:
        """Whoever answers finds in the request's state which device asks."""
        ticket, place = bearer_of(headers), _BULK.get(scope.get("method", ""))
        if ticket is None or place is None or not scope["path"].startswith(place):
            return False
        try:
            device = await self._link.ask(CheckTicket(ticket), object, timeout=2.0)
        except LinkError:
            return False
        scope.setdefault("state", {})["device"] = device
        return isinstance(device, str)


def device_of(request: HTTPConnection) -> str | None:
    """The device that asks with its ticket; None: somebody who may do everything."""
    device: str | None = getattr(request.state, "device", None)
    return device


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
