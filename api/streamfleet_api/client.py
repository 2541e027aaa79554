"""HTTP to the api, for the command line: errors come with the next step."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import httpx

from streamfleet_api.commands import CommandFailed, Rejected, Unreachable
from streamfleet_broker.models.content import Told, pieces_of, untold
from streamfleet_broker.protocol.errors import ProtocolError
from streamfleet_broker.protocol.keyfile import read_private

TIMEOUT = 15.0  # seconds for an answer
_UPLOAD_TIMEOUT = 120.0  # seconds in which nothing moves


class ServerSent(NamedTuple):
    """One server-sent event, as the WHATWG's HTML standard has them."""

    name: str
    data: str
    id: str


class Client:
    """One api."""

    def __init__(self, url: str, token: str | None, *, timeout: float = TIMEOUT) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # Proxies of the environment are not asked: a fleet is on this host or on the network beside it.
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def get(self, path: str) -> Any:
        """The JSON of an answer. Raises: CommandFailed."""
        return self._request("GET", path)

    def list(self, what: str, *, within: str | None = None, **chosen: str | None) -> list[dict[str, Any]]:
        """All devices, models or pipelines, or those that were chosen. Raises: CommandFailed.

        `within` is the key of the answer that has them, where it is not `what`.
        """
        query = urlencode({name: value for name, value in chosen.items() if value is not None})
        answer = self.get(f"/v2/{what}{query and '?' + query}")
        key = within or what
        if not isinstance(answer, dict) or key not in answer:
            raise self._stranger(f"its answer has no {key}")
        found: list[dict[str, Any]] = answer[key]
        return found

    def find(self, path: str) -> Any:
        """The JSON of an answer, None when there is nothing. Raises: CommandFailed."""
        try:
            return self.get(path)
        except Rejected as exc:
            if exc.status == 404:
                return None
            raise

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The JSON of an answer, None of an empty one. Raises: CommandFailed."""
        return self._request(method, path, json=body, headers=headers)

    def done(self, method: str, path: str) -> tuple[bool, Any]:
        """Whether it is done already, not only wished for, and the JSON. Raises: CommandFailed."""
        with self._failing():
            response = self._checked(self._http.request(method, path))
            return response.status_code != 202, response.json() if response.content else None

    def look(self, path: str) -> tuple[int, dict[str, Any]]:
        """The status and the object of an answer, whatever it says. Raises: CommandFailed."""
        with self._failing():
            response = self._http.get(path)
            found = response.json()
        if not isinstance(found, dict):
            raise self._stranger("its answer is no object")
        return response.status_code, found

    def fetch(self, path: str) -> bytes:
        """The bytes of an answer. Raises: CommandFailed."""
        with self._failing():
            return self._checked(self._http.get(path)).content

    def save(self, path: str, file: IO[bytes]) -> None:
        """Write the bytes of an answer as they come, of whatever length. Raises: CommandFailed, OSError."""
        with self._failing(), self._http.stream("GET", path, timeout=_UPLOAD_TIMEOUT) as response:
            if not response.is_success:
                response.read()
            for piece in self._checked(response).iter_bytes():
                file.write(piece)

    def upload(self, digest: str, path: Path, told: Told = untold) -> bool:
        """Put a file into the blobs; False: it is there already. Raises: CommandFailed, OSError."""
        return self.pass_on(digest, pieces_of(path, told))

    def pass_on(self, digest: str, content: Generator[bytes, None, None]) -> bool:
        """Put content into the blobs; False: it is there already, and none of it was asked for.

        Raises: CommandFailed, whatever `content` raises.
        """
        address = f"/v2/blobs/{digest}"
        with self._failing(), contextlib.closing(content):
            if self._http.head(address).status_code == 200:
                return False
            self._checked(self._http.put(address, content=content, timeout=_UPLOAD_TIMEOUT))
        return True

    def events(self, path: str, last: str = "") -> Generator[ServerSent, None, None]:
        """The server-sent events of an answer after the one of this id, after one named `open`.

        One named `silence` tells that the api had nothing to send for 5 s. Raises: CommandFailed.
        """
        timeout = httpx.Timeout(TIMEOUT, read=30)
        headers = {"last-event-id": last} if last else {}
        with (
            self._failing(),
            self._http.stream("GET", path, timeout=timeout, headers=headers) as response,
        ):
            if response.status_code != 200:
                response.read()
            self._checked(response)
            yield ServerSent("open", "", "")
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if line == ":":
                    yield ServerSent("silence", "", "")
                elif line:
                    field, _, value = line.partition(": ")
                    fields[field] = value
                elif "data" in fields:
                    yield ServerSent(fields.get("event", "message"), fields["data"], fields.get("id", ""))
                    fields = {}

    def _request(self, method: str, path: str, **options: Any) -> Any:
        with self._failing():
            response = self._checked(self._http.request(method, path, **options))
            return response.json() if response.content else None

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            hint = "is the fleet running? 'streamfleet up' starts one; --url names another"
            raise Unreachable(f"cannot reach {self.url}: {exc}", hint) from exc
        except json.JSONDecodeError as exc:
            raise self._stranger("its answer is no JSON") from exc

    def _stranger(self, why: str) -> CommandFailed:
        return CommandFailed(f"{self.url} is no Streamfleet api: {why}", "--url names another")

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        hint = ""
        if response.status_code == 401:
            hint = "give the operator's token with --token or STREAMFLEET_TOKEN"
        why = reason(response)
        if why is None:
            raise self._stranger(f"it answers HTTP {response.status_code}")
        raise Rejected(response.status_code, why, hint, _errors(response.json()))


def reason(response: httpx.Response) -> str | None:
    """What an answer says went wrong; None when it has no shape of the api's."""
    try:
        body = response.json()
    except ValueError:
        return None
    if not isinstance(body, dict) or body == {"detail": "Not Found"}:
        return None
    detail = body.get("detail") or body.get("title")
    return None if detail is None else str(detail)


def _errors(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What RFC 9457 leaves to the api: each wrong value with its place."""
    errors = body.get("errors")
    return errors if isinstance(errors, list) else []


def path_of(*parts: str) -> str:
    """A path of plain parts; nothing in a part can leave its place."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def token_for(url: str, token_file: Path) -> str | None:
    """The token that this host's own fleet keeps, when the URL is this host: nobody else is shown it."""
    if not _is_here(urlsplit(url).hostname or ""):
        return None
    try:
        return read_private(token_file).decode("ascii").strip()
    except (OSError, ProtocolError):
        return None


def only_here(endpoints: Iterable[str]) -> bool:
    """Can these endpoints be reached from this host alone?"""
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
