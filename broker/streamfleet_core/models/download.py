"""Models from the web: over HTTPS alone, and only the content whose sha256 was said beforehand.

Nothing is kept here: who asks gets the bytes as they come, and may use them once the last one has come.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from streamfleet_core.models.digest import Told, untold
from streamfleet_core.models.onnx_graph import MAX_FILE
from streamfleet_core.protocol.limits import SHA256_PATTERN, whole
from streamfleet_core.protocol.source_reference import sanitised

_CONNECT_TIMEOUT = 10.0  # seconds
_READ_TIMEOUT = 30.0  # seconds in which nothing comes
_WHOLE = 3600.0  # seconds
_MAX_REDIRECTS = 5
_SHA256 = re.compile(whole(SHA256_PATTERN))


class DownloadFailed(Exception):
    """Nothing of use came."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What to fetch, and what it must be."""

    url: httpx.URL
    sha256: str

    @classmethod
    def of(cls, address: str, sha256: str | None = None) -> Remote:
        """From `https://host/model.onnx`, with `#sha256=…` behind it unless that is given by itself.

        Raises: DownloadFailed.
        """
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL as exc:
            raise DownloadFailed("expected an address as https://host/model.onnx, it cannot be read") from exc
        fragment = url.fragment.removeprefix("sha256=").lower()
        url = url.copy_with(fragment=None)
        if url.scheme != "https" or not url.host:
            raise DownloadFailed(f"expected an address as https://host/model.onnx, got {shown(url)}")
        digest = (sha256 or fragment).lower()
        if not _SHA256.match(digest):
            came = f"got {digest[:80]!r}" if digest else "got none"
            raise DownloadFailed(
                f"{shown(url)}: expected the sha256 of the file, 64 digits of 0-9a-f, by --sha256 or as "
                f"#sha256=… behind the address; {came}"
            )
        if fragment and fragment != digest:
            raise DownloadFailed(f"{shown(url)}: expected one sha256, got {digest} and {fragment}")
        return cls(url, digest)

    def __str__(self) -> str:
        return shown(self.url)


def shown(url: httpx.URL) -> str:
    """An address without what may be secret in it: credentials, query, and what opens doors in the path."""
    return str(sanitised(str(url)))


def fetch(remote: Remote, told: Told = untold, *, limit: int = MAX_FILE) -> Generator[bytes, None, None]:
    """The bytes as they come. It ends well only when all have come and are those of the digest.

    Proxies and certificates are those of the environment, as for every program of this user.
    Raises: DownloadFailed.
    """
    until = time.monotonic() + _WHOLE
    digest, size = hashlib.sha256(), 0
    timeout = httpx.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT)
    with _told(remote), httpx.Client(timeout=timeout) as client, _answer(client, remote) as answer:
        length = answer.headers.get("content-length")
        total = int(length) if length is not None else None
        _check_size(remote, total or 0, limit)
        for piece in answer.iter_raw():
            size += len(piece)
            _check_size(remote, size, limit)
            if time.monotonic() > until:
                raise DownloadFailed(f"{remote}: expected it within {_WHOLE:g} s, got {size} bytes")
            digest.update(piece)
            yield piece
            told(size, total)
    if digest.hexdigest() != remote.sha256:
        came = digest.hexdigest()
        raise DownloadFailed(f"{remote}: expected content of sha256 {remote.sha256}, got {came}")


@contextmanager
def _answer(client: httpx.Client, remote: Remote) -> Iterator[httpx.Response]:
    """The answer with the content, behind all redirects. Raises: DownloadFailed, httpx.HTTPError."""
    # Encoded content has another digest than the file.
    request = client.build_request("GET", remote.url, headers={"accept-encoding": "identity"})
    for _ in range(_MAX_REDIRECTS + 1):
        with contextlib.closing(client.send(request, stream=True)) as response:
            if response.next_request is None:
                if response.status_code != httpx.codes.OK:
                    raise DownloadFailed(f"{remote}: it answers HTTP {response.status_code}")
                yield response
                return
            request = response.next_request
        if request.url.scheme != "https":
            raise DownloadFailed(f"{remote}: it leads to {shown(request.url)}, which is not https")
    raise DownloadFailed(f"{remote}: it leads on more than {_MAX_REDIRECTS} times")


@contextmanager
def _told(remote: Remote) -> Iterator[None]:
    """What goes wrong under way, with the address. Raises: DownloadFailed."""
    try:
        yield
    except httpx.TimeoutException as exc:
        raise DownloadFailed(f"{remote}: no answer in time ({type(exc).__name__})") from exc
    except httpx.HTTPError as exc:
        raise DownloadFailed(f"{remote}: {exc or type(exc).__name__}") from exc


def _check_size(remote: Remote, size: int, limit: int) -> None:
    if size > limit:
        raise DownloadFailed(f"{remote}: expected at most {limit} bytes, it has more")
