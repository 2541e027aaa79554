"""Whether a request is admitted, decided from what it says and where it comes from. Pure. (S6, S26, S27)

    open route ──▶ admitted
    this host, a trusted network ──by a name of ours──▶ program, own page, page of --cors ──▶ admitted
                                                        └──foreign page──▶ 403
    anywhere else ──▶ the token, over TLS or from this host ──▶ admitted, pages of any origin too

A browser tells who asks by `Origin` and `Sec-Fetch-Site`. It sends the second one to this host and over TLS
only, and the first one not with pictures, scripts, forms and links that read.
"""

from __future__ import annotations

import enum
import functools
import hmac
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST_KEPT = 128  # characters of a path whose kind is remembered
_LONGEST_ADDRESS = 64  # characters, with the interface that an IPv6 one may name
_FORWARDED = ("x-forwarded-", "forwarded", "via", "x-real-ip", "x-client-ip", "x-original-", "x-envoy-")
_FORWARDED_BY_CLOUDS = ("cf-connecting-ip", "cf-ray", "fastly-client-ip", "true-client-ip", "x-amzn-trace-id")
_FETCHED_AHEAD = ("sec-purpose", "purpose", "x-moz", "x-purpose")
# Of two of these, we would judge by the first, and another program by the last. Headers of proxies are not
# among them: their presence alone counts, and each proxy on the way may add its own.
_GIVEN_ONCE = frozenset(
    {"authorization", "content-length", "content-type", "host", "origin", "referer", "user-agent"}
)
_ALSO_GIVEN_ONCE = ("access-control-request-", "sec-fetch-")
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]{1,255}|\[[A-Za-z0-9:.%_-]{2,64}\])(?::[0-9]{0,5})?")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Kind(enum.Enum):
    """The kind of a route, as far as access depends on it."""

    OPEN = enum.auto()  # public: files of the dashboard, and health checks
    DOCUMENT = enum.auto()  # a page for people, to which any page may have a link
    METRICS = enum.auto()  # for Prometheus: no page of another origin reads it without the token
    TAKES = enum.auto()  # a GET that changes something
    OTHER = enum.auto()


_KINDS = (
    (re.compile(r"/|/page/[^/]+|/healthz|/readyz"), Kind.OPEN),
    (re.compile(r"/docs"), Kind.DOCUMENT),
    (re.compile(r"/metrics"), Kind.METRICS),
    (re.compile(r"/inference_pipelines/[^/]+/consume"), Kind.TAKES),
)


class Refusal(enum.Enum):
    """The reason why a request is refused."""

    TOKEN = enum.auto()  # there is none, and it comes from elsewhere
    WRONG_TOKEN = enum.auto()
    TOO_MANY = enum.auto()  # too many wrong tokens from its address, so this one is not checked
    PLAIN = enum.auto()  # a token over an unencrypted connection from another machine
    FOREIGN_PAGE = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The parts of a request that access depends on."""

    method: str  # GET of a WebSocket
    path: str
    headers: Headers
    peer: str | None
    is_encrypted: bool = False
    server: str | None = None  # our address that received it

    @property
    def kind(self) -> Kind:
        """The kind of its route."""
        return _kind_of(self.path) if len(self.path) <= _LONGEST_KEPT else _kind_of.__wrapped__(self.path)

    @property
    def address(self) -> Address | None:
        """The address of the peer."""
        return address_of(self.peer)

    @property
    def repeated_header(self) -> str | None:
        """A header that access depends on and that is given more than once."""
        seen: set[str] = set()
        for name in self.headers.keys():  # noqa: SIM118 - each as often as it was given
            if name in _GIVEN_ONCE or name.startswith(_ALSO_GIVEN_ONCE):
                if name in seen:
                    return name
                seen.add(name)
        return None

    @property
    def is_preflight(self) -> bool:
        """Whether it is a CORS preflight."""
        return self.method == "OPTIONS" and "access-control-request-method" in self.headers


@functools.lru_cache(maxsize=1_024)
def _kind_of(path: str) -> Kind:
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(path)), Kind.OTHER)


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about a request."""

    refusal: Refusal | None = None
    reader: str | None = None  # the foreign origin whose pages may read the answer
    is_wrong_token: bool = False
    is_moved: bool = False  # to the same address over TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The access settings of the operator."""

    token: str = field(repr=False)
    trust: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()  # of this api, besides addresses
    origins: frozenset[str] = frozenset()  # of `--cors`
    insecure: bool = False  # the token may come unencrypted from another machine
    has_tls: bool = False

    def decide(self, asked: Asked, *, is_locked: Callable[[], bool] = lambda: False) -> Decision:
        """Decide about a request. `is_locked`: too many wrong tokens from this address."""
        if asked.kind is Kind.OPEN:
            return Decision(is_moved=self._asks_for_a_token_in_clear(asked))
        page = _foreign_page(asked)
        if asked.is_preflight and page:
            return self._decide_preflight(asked, page)
        is_near = self._is_near(asked)
        if is_near and page is None and _may_ask(asked):
            return Decision()
        if is_near and self._lists(asked, page):
            return Decision(reader=page)
        refusal = self._refuses_token(asked, is_locked)
        is_wrong = refusal is Refusal.WRONG_TOKEN
        if is_near and refusal not in (None, Refusal.TOO_MANY):
            refusal = Refusal.FOREIGN_PAGE
        return Decision(refusal, None if refusal else page or None, is_wrong)

    def _asks_for_a_token_in_clear(self, asked: Asked) -> bool:
        """Whether it loads the dashboard from where it would ask the user for the token."""
        is_private = asked.is_encrypted or self._is_near(asked) or _is_local(asked)
        return self.has_tls and asked.path == "/" and not is_private

    def _is_near(self, asked: Asked) -> bool:
        """Whether it is from an address that needs no token."""
        address = asked.address
        if address is None or not self._is_by_name_of_ours(asked):
            return False
        if any(address in network for network in self.trust):
            return True
        return address.is_loopback and not _is_forwarded(asked)

    def is_by_a_page(self, asked: Asked) -> bool:
        """Whether it may be from a foreign web page, possibly after DNS rebinding."""
        return _foreign_page(asked) is not None or not self._is_by_name_of_ours(asked)

    def _is_by_name_of_ours(self, asked: Asked) -> bool:
        """A page whose name was rebound to this host says that name.

        What says several, or more than a name and a port, is read otherwise by the next program.
        """
        hosts = asked.headers.getlist("host")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            return False
        name = hostname_of(f"//{hosts[0]}")
        return name in self.names or address_of(name) is not None

    def _lists(self, asked: Asked, page: str | None) -> bool:
        return page in self.origins and asked.kind is not Kind.METRICS

    def _decide_preflight(self, asked: Asked, origin: str) -> Decision:
        """Whether the request itself carries a token."""
        wanted = asked.headers.get("access-control-request-headers", "").lower().split(",")
        if self._lists(asked, origin) or "authorization" in map(str.strip, wanted):
            return Decision(reader=origin)
        return Decision(Refusal.FOREIGN_PAGE)

    def _refuses_token(self, asked: Asked, is_locked: Callable[[], bool]) -> Refusal | None:
        bearer = bearer_of(asked.headers)
        if bearer is None:
            return Refusal.TOKEN
        if is_locked():
            return Refusal.TOO_MANY
        if not (asked.is_encrypted or _is_local(asked) or self.insecure):
            return Refusal.PLAIN
        is_right = hmac.compare_digest(bearer.encode("utf-8", "replace"), self.token.encode())
        return None if is_right else Refusal.WRONG_TOKEN


def _is_forwarded(asked: Asked) -> bool:
    """Whether a proxy forwarded the request. Each proxy adds a header of its own choice."""
    marks = (*_FORWARDED, *_FORWARDED_BY_CLOUDS)
    return any(name.startswith(marks) for name in asked.headers)


def _is_local(asked: Asked) -> bool:
    """Whether it is from this machine. A local request to an address of ours has the same source address."""
    address = asked.address
    return address is not None and (address.is_loopback or address == address_of(asked.server))


def _foreign_page(asked: Asked) -> str | None:
    """The foreign origin of a request, "" if unknown; None if it has none."""
    headers = asked.headers
    origin = headers.get("origin")
    if origin is not None:
        return None if _is_own(origin, headers) else origin.lower()
    if _follows_link(asked):
        return None
    site = headers.get("sec-fetch-site")
    if site is not None:
        # What a page has fetched ahead says `none`, as if a person had typed it.
        is_ahead = any(name in headers for name in _FETCHED_AHEAD)
        return None if site == "same-origin" or (site == "none" and not is_ahead) else ""
    referer = headers.get("referer")
    return None if referer is None or _is_own(referer, headers) else ""


def _is_own(url: str, headers: Headers) -> bool:
    parts = _split(url)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == headers.get("host", "").lower()


def _follows_link(asked: Asked) -> bool:
    """Whether it is a navigation to a page of ours. A foreign page can neither read nor frame it."""
    return asked.kind is Kind.DOCUMENT and asked.method in ("GET", "HEAD")


def _may_ask(asked: Asked) -> bool:
    """Whether it is certainly not from a foreign page, or harmless.

    Over plain HTTP from another machine, a browser may send nothing about the page that loads an image.
    """
    if asked.kind is not Kind.TAKES and asked.method in _READS:
        return True
    headers = ("origin", "sec-fetch-site", "referer")
    is_browser = asked.headers.get("user-agent", "").startswith("Mozilla/")
    return not is_browser or any(name in asked.headers for name in headers)


def bearer_of(headers: Headers) -> str | None:
    """The token in `Authorization: Bearer …`, or None."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def address_of(text: str | None) -> Address | None:
    """Parse an address, with an IPv4-mapped address as IPv4. None: it is not an address."""
    return _address_of(text) if text and len(text) <= _LONGEST_ADDRESS else None


@functools.lru_cache(maxsize=1_024)
def _address_of(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def network_of(address: Address | None) -> str:
    """The address range that limits count as one client: for IPv6 a /64."""
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def is_trusted(address: Address | None, trust: tuple[Network, ...]) -> bool:
    """Whether an address is of this host, or of a network of `--trust`."""
    return address is not None and (address.is_loopback or any(address in network for network in trust))


def hostname_of(url: str) -> str:
    """Return the host in lower case without the port; "" if the text is not a URL."""
    return _split(url).hostname or ""


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")
