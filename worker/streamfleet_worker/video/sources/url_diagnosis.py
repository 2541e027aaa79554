"""Finds out why a URL does not open, if FFmpeg's error does not say: it asks the server once.

    connect ── rtsp(s): DESCRIBE
            ── http(s): GET, of which only the head is read

No login is sent, so none can fail. While FFmpeg plays there is no second connection: cameras allow only a
few.
"""

from __future__ import annotations

import http
import socket
import ssl
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlsplit

from streamfleet_core.protocol.source_reference import SCHEMES, sanitised
from streamfleet_core.protocol.status import SourceCause
from streamfleet_worker.video.sources.errors import SourceLost

CONNECT_LIMIT = 2.0  # seconds for each address of a host
ANSWER_LIMIT = 5.0  # seconds for a whole answer

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
_ENCRYPTED = ("rtsps", "https")
_MOST = 65_536  # bytes read of an answer
_AS_THEY_ARE = "%/:=&?~#+!$,;'@()*[]"  # characters that are not encoded again in the target of a request


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The parts of a URL that are needed to connect."""

    shown: str  # for users: without credentials, query and fragment
    scheme: str  # lower case
    host: str
    port: int  # 0 if neither the scheme nor the URL has one
    target: str = field(repr=False)  # path and query, which may hold a password
    has_login: bool

    @property
    def place(self) -> str:
        """`host:port`, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def lost(self, cause: SourceCause, why: str) -> SourceLost:
        """Make an error about this address."""
        return SourceLost(cause, f"{self.shown}: {why}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response in HTTP's format, which RTSP shares."""

    status: int
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes = b""

    def all(self, name: str) -> tuple[str, ...]:
        """The values of every header of this name."""
        return tuple(value for key, value in self.headers if key == name)


def resolve(address: Address) -> None:
    """Check that the host name resolves: FFmpeg does not distinguish this error. Raises: SourceLost."""
    try:
        if address.host:
            socket.getaddrinfo(address.host, address.port or None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise address.lost("unreachable", "the host's name is unknown") from None


def diagnose(address: Address) -> SourceLost | None:
    """Ask the server why there is no picture; None if its answer does not say.

    Takes a few seconds at most.
    """
    try:
        match address.scheme:
            case "rtsp" | "rtsps":
                url = f"{address.scheme}://{address.place}{address.target}"
                with closing(_Connection(address)) as connection:
                    headers = {"CSeq": "1", "Accept": "application/sdp"}
                    return diagnose_answer(
                        address, connection.ask(_request("DESCRIBE", url, "RTSP/1.0", headers))
                    )
            case "http" | "https":
                headers = {"Host": address.place, "Accept": "*/*", "Connection": "close"}
                with closing(_Connection(address)) as connection:
                    return diagnose_answer(
                        address, connection.ask(_request("GET", address.target, "HTTP/1.1", headers))
                    )
            case "rtmp" | "rtmps":
                _Connection(address).close()
    except SourceLost as exc:
        return exc
    return None


# pure -----------------------------------------------------------------------------------------------------


def address_of(url: str) -> Address:
    """Parse a URL. Raises: SourceLost if it is invalid or has an unsupported scheme."""
    shown = str(sanitised(url))
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        why = "expected a URL such as rtsp://host:554/path, with %2F for a / in a password"
        raise SourceLost("invalid", f"{shown}: {why}") from None
    if parts.scheme not in SCHEMES:
        expected = ", ".join(SCHEMES)
        raise SourceLost("invalid", f"{shown}: expected one of {expected}, got {parts.scheme!r}")
    if not host and parts.scheme != "udp":
        raise SourceLost("invalid", f"{shown}: expected a host, got none")
    # As FFmpeg does: HTTP needs a path; an RTSP server may distinguish rtsp://host and rtsp://host/.
    path = parts.path or ("/" if parts.scheme.startswith("http") else "")
    target = f"{path}?{parts.query}" if parts.query else path
    return Address(
        shown=shown,
        scheme=parts.scheme,
        host=host or "",
        port=port or _PORTS.get(parts.scheme, 0),
        target=quote(target, safe=_AS_THEY_ARE),
        has_login=parts.username is not None,
    )


def diagnose_answer(address: Address, answer: Answer) -> SourceLost | None:
    """Derive the cause from the server's answer to a request without login; None if it does not say."""
    said = _status_text(answer.status)
    match answer.status:
        case 401 | 407 if not address.has_login:
            return address.lost("authentication", "it wants a user and a password, the address has none")
        case 401 | 407 if not any(map(_is_supported, answer.all("www-authenticate"))):
            why = "expected Basic or Digest with MD5 as its login, which FFmpeg supports, got another one"
            return address.lost("authentication", why)
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
        case status if status >= 400:
            return address.lost("invalid", f"the server refuses the request ({said})")
    return None


def parse_answer(head: bytes) -> Answer | None:
    """Parse the head of an answer; None if it is not HTTP or RTSP."""
    first, *lines = head.decode(errors="replace").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith(("RTSP/", "HTTP/", "ICY")) or not (rest[:3].isascii() and rest[:3].isdigit()):
        return None
    pairs = (line.partition(":") for line in lines if ":" in line)
    return Answer(int(rest[:3]), tuple((name.strip().lower(), value.strip()) for name, _, value in pairs))


def _status_text(status: int) -> str:
    """The status with our phrase: the server's own phrase may repeat parts of the request."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)  # a status of RTSP


def _is_supported(challenge: str) -> bool:
    """Whether FFmpeg supports this kind of login."""
    offer = challenge.lower()
    return "basic" in offer or ("digest" in offer and ("algorithm" not in offer or "md5" in offer))


def _has_no_video(answer: Answer) -> bool:
    """Whether the SDP (RFC 4566) lists media, but no video."""
    lines = answer.body.splitlines()
    return any(line.startswith(b"v=") for line in lines) and not any(
        line.startswith(b"m=video") for line in lines
    )


# sockets --------------------------------------------------------------------------------------------------


def _request(verb: str, target: str, protocol: str, headers: dict[str, str]) -> bytes:
    lines = [f"{verb} {target} {protocol}", "User-Agent: streamfleet"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class _Connection:
    """A connection to the server."""

    def __init__(self, address: Address) -> None:
        """Connect. Raises: SourceLost."""
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
        """Send a request and read the answer. Raises: SourceLost."""
        try:
            return self._ask(request, time.monotonic() + ANSWER_LIMIT)
        except TimeoutError:
            why = f"the host accepts connections, but does not answer within {ANSWER_LIMIT:.0f} s"
            raise self._address.lost("timeout", why) from None
        except OSError:
            raise self._closed_early() from None

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _encrypt(self) -> None:
        # Cameras use self-signed certificates, and FFmpeg does not verify them either.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            self._socket.settimeout(ANSWER_LIMIT)
            self._socket = context.wrap_socket(self._socket, server_hostname=self._address.host)
        except TimeoutError:
            self.close()
            raise self._address.lost("timeout", "the host accepts connections, but does not answer") from None
        except OSError:  # all TLS errors are OSErrors
            self.close()
            raise self._address.lost("invalid", "the host does not speak TLS on this port") from None

    def _ask(self, request: bytes, deadline: float) -> Answer:
        self._socket.settimeout(ANSWER_LIMIT)
        self._socket.sendall(request)
        content = bytearray()
        while b"\r\n\r\n" not in content:
            self._receive(content, deadline)
        head, _, rest = bytes(content).partition(b"\r\n\r\n")
        answer = parse_answer(head)
        if answer is None:
            raise self._wrong_protocol()
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
            raise self._wrong_protocol()
        self._socket.settimeout(left)
        more = self._socket.recv(4096)
        if not more:
            raise self._closed_early()
        content += more

    def _wrong_protocol(self) -> SourceLost:
        return self._address.lost(
            "invalid", f"expected a server of {self._address.scheme}, got another protocol"
        )

    def _closed_early(self) -> SourceLost:
        return self._address.lost("ended", "the server closed the connection before it answered")
