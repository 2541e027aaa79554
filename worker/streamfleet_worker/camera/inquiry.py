"""Asks the server of a URL why there would be no picture, before FFmpeg, which tells nobody, opens it.

    connect ── rtsp(s): DESCRIBE ──┐
            ── http(s): GET        ├── 401, and there is a login: the same again, with it
            ── rtmp(s): that is all┘

None of it begins a session, so it costs the server little, and a wrong password is tried once and no more.
"""

from __future__ import annotations

import http
import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, urljoin, urlsplit

from streamfleet_broker.protocol.reference import SCHEMES, sanitised
from streamfleet_broker.protocol.status import SourceCause
from streamfleet_worker.camera.login import Authorization, Login, authorization
from streamfleet_worker.camera.lost import SourceLost

CONNECT_LIMIT = 2.0  # seconds for each address of a host
ANSWER_LIMIT = 5.0  # seconds for a whole answer

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
_ENCRYPTED = ("rtsps", "https")
_MOST = 65_536  # bytes of an answer that are read
_NO_PICTURE = "it answers, but gives nothing that can be decoded"
_REDIRECTS = 3  # followed, on the same host
_AS_THEY_ARE = "%/:=&?~#+!$,;'@()*[]"  # not encoded again in a request's target


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URL leads, and with which login."""

    shown: str  # for people: without credentials, query and fragment
    scheme: str  # lower case
    host: str
    port: int  # 0 where the scheme has none and the URL tells none
    target: str = field(repr=False)  # path and query, which may hold a password
    login: Login | None

    @property
    def place(self) -> str:
        """`host:port`, as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def lost(self, cause: SourceCause, why: str) -> SourceLost:
        """The error that says this of the address."""
        return SourceLost(cause, f"{self.shown}: {why}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, in HTTP's form or in RTSP's, which is the same."""

    status: int
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes = b""

    def all(self, name: str) -> tuple[str, ...]:
        """The values of every header of this name."""
        return tuple(value for key, value in self.headers if key == name)


@contextmanager
def inquired(url: str) -> Iterator[SourceLost]:
    """Within it, open the URL; if that fails after all, raise what this gives.

    Raises: SourceLost when there is no use in opening. Takes a few seconds at most, beside the look-up of the
    host's name.
    """
    address = address_of(url)
    match address.scheme:
        case "rtsp" | "rtsps":
            # The line is kept while FFmpeg makes its own: a server that encodes for whoever is there
            # would stop when the first one leaves, and could refuse the second one meanwhile.
            with closing(_Line(address)) as line:
                yield _describe(address, line)
        case "http" | "https":
            yield _get(address)
        case "rtmp" | "rtmps":
            _Line(address).close()
            yield address.lost("codec", _NO_PICTURE)
        case _:
            # Not to be asked: nothing listens, or it serves the first who comes and nobody after that.
            yield address.lost("codec", _NO_PICTURE)


# pure -----------------------------------------------------------------------------------------------------


def address_of(url: str) -> Address:
    """Raises: SourceLost when the URL cannot be read, or its scheme is none that plays."""
    shown = str(sanitised(url))
    try:
        parts = urlsplit(url)
        host, port, user, password = parts.hostname, parts.port, parts.username, parts.password
        (host or "").encode("idna")
    except ValueError:
        why = "expected a URL such as rtsp://user:password@host:554/path, with %2F for a / in the password"
        raise SourceLost("invalid", f"{shown}: {why}") from None
    if parts.scheme not in SCHEMES:
        expected = ", ".join(SCHEMES)
        raise SourceLost("invalid", f"{shown}: expected one of {expected}, came {parts.scheme!r}")
    if not host and parts.scheme != "udp":
        raise SourceLost("invalid", f"{shown}: expected a host, came none")
    # As FFmpeg does: HTTP wants a path, an RTSP server may tell rtsp://host from rtsp://host/.
    path = parts.path or ("/" if parts.scheme.startswith("http") else "")
    target = f"{path}?{parts.query}" if parts.query else path
    return Address(
        shown=shown,
        scheme=parts.scheme,
        host=host or "",
        port=port or _PORTS.get(parts.scheme, 0),
        target=quote(target, safe=_AS_THEY_ARE),
        login=None if user is None else Login(unquote(user), unquote(password or "")),
    )


def judged(address: Address, answer: Answer) -> SourceLost | None:
    """Why there is no use in opening. None: there is hope."""
    said = _named(answer.status)
    match answer.status:
        case 401 | 407 if address.login is None:
            return address.lost("authentication", "it wants a user and a password, the address has none")
        case 401 | 407:
            return address.lost("authentication", "the user or the password is wrong")
        case 403:
            return address.lost("authentication", f"access is denied ({said})")
        case 404 | 410 | 454:
            return address.lost("not_found", f"there is nothing under this path ({said})")
        case 429 | 453 | 500 | 502 | 503 | 504:
            return address.lost("unreachable", f"the server cannot serve it now ({said})")
        case 200 if _has_no_video(answer):
            return address.lost("codec", "the stream has no video")
    return None


def doubted(address: Address, answer: Answer, login: Authorization | None) -> SourceLost:
    """What was most likely wrong if FFmpeg, which may know better, does not open it."""
    if login is not None and login.method == "SHA-256":
        why = "the login is right, but OpenCV's FFmpeg does not know Digest with SHA-256, only MD5 and Basic"
        return address.lost("authentication", why)
    if answer.status >= 400:
        return address.lost("invalid", f"the server refuses the request ({_named(answer.status)})")
    return address.lost("codec", _NO_PICTURE)


def redirected(address: Address, answer: Answer) -> Address | None:
    """Where an answer sends us, if that is on the same host."""
    (location,) = answer.all("location")[:1] or ("",)
    if answer.status not in (301, 302, 303, 307, 308) or not location:
        return None
    try:
        there = address_of(urljoin(f"{address.scheme}://{address.place}{address.target}", location))
    except SourceLost:
        return None
    if (there.scheme, there.host, there.port) != (address.scheme, address.host, address.port):
        return None
    return replace(address, target=there.target)


def parsed(head: bytes) -> Answer | None:
    """The answer that begins so, without its body. None: it is none."""
    first, *lines = head.decode(errors="replace").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith(("RTSP/", "HTTP/", "ICY")) or not (rest[:3].isascii() and rest[:3].isdigit()):
        return None
    pairs = (line.partition(":") for line in lines if ":" in line)
    return Answer(int(rest[:3]), tuple((name.strip().lower(), value.strip()) for name, _, value in pairs))


def _named(status: int) -> str:
    """Not by the phrase that came with it: a server may repeat there what it was sent."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)  # one of RTSP's own


def _has_no_video(answer: Answer) -> bool:
    """An SDP (RFC 4566) names each medium in a line of its own."""
    lines = answer.body.splitlines()
    return any(line.startswith(b"v=") for line in lines) and not any(
        line.startswith(b"m=video") for line in lines
    )


# sockets --------------------------------------------------------------------------------------------------


def _describe(address: Address, line: _Line) -> SourceLost:
    url = f"{address.scheme}://{address.place}{address.target}"
    answer = line.ask(_request("DESCRIBE", url, "RTSP/1.0", {"CSeq": "1", "Accept": "application/sdp"}))
    login = _login(address, answer, "DESCRIBE", url)
    if login is not None:
        headers = {"CSeq": "2", "Accept": "application/sdp", "Authorization": login.value}
        answer = line.ask(_request("DESCRIBE", url, "RTSP/1.0", headers))
    trouble = judged(address, answer)
    if trouble is not None:
        raise trouble
    return doubted(address, answer, login)


def _get(address: Address) -> SourceLost:
    there: Address | None = address
    for _ in range(_REDIRECTS):
        if there is None:
            break
        address = there
        answer = _got(address, {})
        login = _login(address, answer, "GET", address.target)
        if login is not None:
            answer = _got(address, {"Authorization": login.value})
        trouble = judged(address, answer)
        if trouble is not None:
            raise trouble
        there = redirected(address, answer)
    return doubted(address, answer, login)


def _got(address: Address, headers: dict[str, str]) -> Answer:
    """The head of an answer to GET; the body, which may never end, stays where it is."""
    usual = {"Host": address.place, "Accept": "*/*", "Connection": "close"}
    with closing(_Line(address)) as line:
        return line.ask(_request("GET", address.target, "HTTP/1.1", {**usual, **headers}))


def _login(address: Address, answer: Answer, verb: str, target: str) -> Authorization | None:
    if answer.status != 401 or address.login is None:
        return None
    challenges = answer.all("www-authenticate")
    login = authorization(challenges, address.login, verb=verb, target=target, nonce=secrets.token_hex(8))
    if login is None:
        raise address.lost("authentication", "it wants a login that is neither Basic nor Digest")
    return login


def _request(verb: str, target: str, protocol: str, headers: dict[str, str]) -> bytes:
    lines = [f"{verb} {target} {protocol}", "User-Agent: streamfleet"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class _Line:
    """A connection to the server."""

    def __init__(self, address: Address) -> None:
        """Raises: SourceLost."""
        self._address = address
        try:
            self._socket = socket.create_connection((address.host, address.port), CONNECT_LIMIT)
        except TimeoutError:
            raise address.lost("timeout", f"no answer from the host within {CONNECT_LIMIT:.0f} s") from None
        except socket.gaierror:
            raise address.lost("unreachable", "the host's name is unknown") from None
        except ConnectionRefusedError:
            raise address.lost("refused", "connection refused") from None
        except OSError as exc:
            raise address.lost("unreachable", (exc.strerror or "no connection").lower()) from None
        if address.scheme in _ENCRYPTED:
            self._encrypt()

    def ask(self, request: bytes) -> Answer:
        """Say this and hear the answer. Raises: SourceLost."""
        try:
            return self._ask(request, time.monotonic() + ANSWER_LIMIT)
        except TimeoutError:
            why = f"the host takes connections, and does not answer within {ANSWER_LIMIT:.0f} s"
            raise self._address.lost("timeout", why) from None
        except OSError:
            raise self._closed() from None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _encrypt(self) -> None:
        # Cameras make their certificates themselves, and FFmpeg does not look at them either.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            self._socket.settimeout(ANSWER_LIMIT)
            self._socket = context.wrap_socket(self._socket, server_hostname=self._address.host)
        except TimeoutError:
            self.close()
            raise self._address.lost("timeout", "the host takes connections, and does not answer") from None
        except OSError:  # every error of TLS is one
            self.close()
            raise self._address.lost("invalid", "the host does not speak TLS on this port") from None

    def _ask(self, request: bytes, deadline: float) -> Answer:
        self._socket.settimeout(ANSWER_LIMIT)
        self._socket.sendall(request)
        content = bytearray()
        while b"\r\n\r\n" not in content:
            self._receive(content, deadline)
        head, _, rest = bytes(content).partition(b"\r\n\r\n")
        answer = parsed(head)
        if answer is None:
            raise self._strange()
        if not head.startswith(b"RTSP/"):
            return answer
        lengths = [int(value) for value in answer.all("content-length") if value.isdecimal()]
        body = bytearray(rest)
        while len(body) < max(lengths, default=0):
            self._receive(body, deadline)
        return replace(answer, body=bytes(body))

    def _receive(self, content: bytearray, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if len(content) > _MOST:
            raise self._strange()
        self._socket.settimeout(left)
        more = self._socket.recv(4096)
        if not more:
            raise self._closed()
        content += more

    def _strange(self) -> SourceLost:
        return self._address.lost("invalid", f"what answers there does not speak {self._address.scheme}")

    def _closed(self) -> SourceLost:
        return self._address.lost("ended", "the other side closed the connection before it answered")
