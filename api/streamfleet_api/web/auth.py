"""Authorises every request, as `access` decides. (S6, S27)

A device's session ticket opens the blobs for reading, and lets it put its own samples and the variant of a
model that it was asked to build, and nothing else.
A page in a browser, which can send no header with a stream, opens one with a ticket that is good once and for
30 s. (S25)
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import socket
import time
from collections import OrderedDict
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamfleet_api.broker_client import BrokerClient, BrokerClientError
from streamfleet_api.web.access_policy import Asked, Decision, Kind, Policy, Refusal, bearer_of, is_trusted
from streamfleet_api.web.failed_logins import FailedLogins
from streamfleet_api.web.handshakes import KnownNetworks
from streamfleet_api.web.problem_details import ErrorAnswer, Problem
from streamfleet_api.web.request_budget import EACH, RequestBudget
from streamfleet_core.protocol.requests import CheckTicket
from streamfleet_core.runtime.private_file import read_private, write_private

logger = logging.getLogger(__name__)

# What a device does there. What it puts must be its own, and what it was asked for.
_BULK = {
    "GET": ("/v2/blobs/",),
    "HEAD": ("/v2/blobs/",),
    "PUT": ("/v2/samples/", "/v2/optimisations/"),
}
_STREAM = re.compile(r"/v2/(predictions|status|events|pipelines/[^/]+/pictures?)")
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,260}")
_OURS_ONLY = (
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"vary", b"Origin"),
)
_PREFLIGHT_AGE = "600"  # seconds for which a browser keeps the answer

MIN_TOKEN = 16  # characters: shorter ones can be guessed
_TOKEN = re.compile(rf"[!-~]{{{MIN_TOKEN},512}}")

TICKET_TTL = 30.0  # seconds
MAX_TICKETS = 1_000
MAX_WRONG_TICKETS = 100  # of one address a minute: the broker is asked, and all are wrong after its restart

# The end of the connection is what helps: the next one needs a handshake, which has a budget, too.
_TOO_MANY_REQUESTS = Problem(
    429,
    f"expected at most {EACH.each_second:g} requests a second without the token from one address",
    headers={"retry-after": "1", "connection": "close"},
)


class UnusableToken(Exception):
    """The file of the operator's token has none that could be used."""


def load_token(path: Path) -> tuple[str, bool]:
    """The operator's token of this api, and whether it was made just now.

    Raises: UnusableToken, KeyExposed, OSError.
    """
    if path.exists():
        return _read_token(path), False
    token = secrets.token_urlsafe(32)
    write_private(path, token.encode("ascii") + b"\n")
    return token, True


def _read_token(path: Path) -> str:
    text = read_private(path).decode("utf-8", "replace").strip()
    if _TOKEN.fullmatch(text):
        return text
    raise UnusableToken(
        f"expected {path} to hold one token of {MIN_TOKEN} to 512 visible ASCII characters, got "
        f"{_described(text)}: remove the file and a new token is made at the next start"
    )


def _described(text: str) -> str:
    """A token that cannot be used. The text does not contain it."""
    if not text:
        return "an empty file"
    if not text.isascii() or not text.isprintable() or " " in text:
        return "other characters"
    return f"{len(text)} characters"


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
        """Redeem a ticket, and return whether it was valid."""
        return self._ends.pop(_digest(ticket), now) > now


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "replace")).digest()


def names_of_this_host() -> frozenset[str]:
    """Exempt programs on this host from the token."""
    own = socket.gethostname().lower()
    label = own.partition(".")[0]
    return frozenset({"localhost", "ip6-localhost", own, label, f"{label}.local"})


class Authorise:
    """The one place that every request passes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        policy: Policy,
        broker: BrokerClient,
        tickets: Tickets,
        failed_logins: FailedLogins,
        known: KnownNetworks,
        answer: ErrorAnswer,
    ) -> None:
        self._app = app
        self._answer = answer
        self._policy = policy
        self._broker = broker
        self._tickets = tickets
        self._failed_logins = failed_logins
        self._known = known
        self._budget = RequestBudget(known)
        self._failed_tickets = FailedLogins(MAX_WRONG_TICKETS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        asked = _asked(scope)
        refusal = _repeats(asked)
        decision = Decision()
        if refusal is None:
            failed = self._failed_logins if _bulk_ticket(asked) is None else self._failed_tickets
            wait = failed.wait(asked.address, time.monotonic(), by_page=self._policy.is_by_a_page(asked))
            decision = self._policy.decide(asked, is_locked=lambda: wait > 0)
            if decision.refusal is not None and not await self._has_ticket(scope, asked, decision):
                refusal = _refused(asked, decision.refusal, wait)
        send = _ours_only(send, decision.reader)
        if (refusal is not None or asked.kind is Kind.OPEN) and not self._has_budget(asked):
            refusal = _TOO_MANY_REQUESTS
        if refusal is not None:
            await self._answer(HTTPConnection(scope), refusal)(scope, receive, send)
        elif decision.is_moved and (host := _HOST.fullmatch(asked.headers.get("host", ""))):
            await Response(status_code=307, headers={"location": f"https://{host[0]}/"})(scope, receive, send)
        elif asked.is_preflight and decision.reader is not None:
            await _preflight_answer(asked)(scope, receive, send)
        else:
            if asked.kind is not Kind.OPEN:
                self._known.admitted(asked.address)
            await self._app(scope, receive, send)

    def _has_budget(self, asked: Asked) -> bool:
        """Whether an address may send another request without the token."""
        is_near = is_trusted(asked.address, self._policy.trust)
        return is_near or self._budget.take(asked.address, time.monotonic())

    async def _has_ticket(self, scope: Scope, asked: Asked, decision: Decision) -> bool:
        """Whether it carries a valid ticket for this route instead of the token."""
        if self._opens_stream(scope):
            return True
        ticket, is_wrong = _bulk_ticket(asked), decision.is_wrong_token
        if ticket is not None and decision.refusal is not Refusal.TOO_MANY:
            try:
                device = await self._broker.ask(CheckTicket(ticket), object, timeout=2.0)
            except BrokerClientError:  # the ticket cannot be checked
                return False
            if isinstance(device, str):
                scope.setdefault("state", {})["device"] = device  # for `device_of`
                return True
            is_wrong = True
        failed = self._failed_logins if ticket is None else self._failed_tickets
        by_page = self._policy.is_by_a_page(asked)
        if is_wrong and failed.failed(asked.address, time.monotonic(), by_page=by_page):
            logger.warning("%d wrong tokens a minute from %s: it has to wait", failed.most, asked.address)
        return False

    def _opens_stream(self, scope: Scope) -> bool:
        if scope.get("method", "GET") != "GET" or not _STREAM.fullmatch(scope["path"]):
            return False
        given = parse_qs(scope["query_string"].decode("ascii", "replace")).get("ticket", [])
        return len(given) == 1 and self._tickets.redeem(given[0], time.monotonic())


def device_of(request: HTTPConnection) -> str | None:
    """The device that authenticated with its ticket; None for a client with full access."""
    device: str | None = getattr(request.state, "device", None)
    return device


def _bulk_ticket(asked: Asked) -> str | None:
    """The possible ticket of a device, on routes that accept one."""
    places = _BULK.get(asked.method, ())
    return bearer_of(asked.headers) if asked.path.startswith(places) else None


def _asked(scope: Scope) -> Asked:
    client, server = scope.get("client"), scope.get("server")
    return Asked(
        method=scope.get("method", "GET"),
        path=scope["path"],
        headers=Headers(scope=scope),
        peer=client[0] if client else None,
        is_encrypted=scope["scheme"] in ("https", "wss"),
        server=server[0] if server else None,
    )


def _repeats(asked: Asked) -> Problem | None:
    """The answer to a request that says twice what access depends on."""
    name = asked.repeated_header
    if name is None:
        return None
    return Problem(400, f"expected the header {name} once, got it {len(asked.headers.getlist(name))} times")


def _refused(asked: Asked, refusal: Refusal, wait: float) -> Problem:
    if refusal is Refusal.FOREIGN_PAGE:
        origin = asked.headers.get("origin", "another site")[:80]
        return Problem(
            403,
            f"expected a program, a page of this api, or the operator's token, got a web page of {origin}: "
            "start the api with --cors ORIGIN (STREAMFLEET_CORS) to let the pages of that origin ask",
        )
    if refusal is Refusal.PLAIN:
        return Problem(
            403,
            "expected a token from another machine over TLS, got it over plain HTTP, where others read it: "
            "use https://, for which the api has --tls-cert and --tls-key, or start the api with --insecure",
        )
    if refusal is Refusal.TOO_MANY:
        return Problem(
            429,
            "expected fewer wrong tokens from one address within a minute",
            headers={"retry-after": str(int(wait) + 1)},
        )
    text = (
        "expected the operator's token as 'Authorization: Bearer TOKEN'; the host of the api keeps it in its "
        "data directory, in api/token"
    )
    if refusal is Refusal.TOKEN:
        text += (
            ". No token is needed from this host and from networks of --trust, by an address or a name of "
        )
        text += "--allowed-host"
    return Problem(401, text, headers={"www-authenticate": "Bearer"})


def _preflight_answer(asked: Asked) -> Response:
    """Yes, as often and with what was asked for."""
    wanted = asked.headers.get("access-control-request-headers", "")
    headers = {
        "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "access-control-max-age": _PREFLIGHT_AGE,
    }
    return Response(status_code=200, headers={**headers, "access-control-allow-headers": wanted})


def _ours_only(send: Send, reader: str | None) -> Send:
    """Every answer tells browsers that no page of another origin may read or embed it, but this one's."""

    async def marked(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = message.get("headers", [])  # which may be another answer's too
            names = {name for name, _ in headers}
            more = [header for header in _OURS_ONLY if header[0] not in names]
            if reader is not None:
                more.append((b"access-control-allow-origin", reader.encode("latin-1")))
            message = {**message, "headers": [*headers, *more]}
        await send(message)

    return marked
