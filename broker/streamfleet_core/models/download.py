"""Downloads models: only over HTTPS, and only content whose sha256 is known beforehand.

Nothing is stored here: the caller gets the bytes as they arrive, and may use them after the last one.
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

from streamfleet_core.models.digest import OnProgress, ignore_progress
from streamfleet_core.models.onnx_graph import MAX_FILE
from streamfleet_core.protocol.limits import SHA256_PATTERN, whole
from streamfleet_core.protocol.source_reference import sanitised

_CONNECT_TIMEOUT = 10.0  # seconds
_READ_TIMEOUT = 30.0  # seconds without data
_TOTAL_TIMEOUT = 3600.0  # seconds for a whole download
_MAX_REDIRECTS = 5
_SHA256 = re.compile(whole(SHA256_PATTERN))


class DownloadFailed(Exception):
    """The file could not be downloaded, or is not the expected one."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to fetch, and its expected digest."""

    url: httpx.URL
    sha256: str

    @classmethod
    def of(cls, address: str, sha256: str | None = None) -> Remote:
        """Parse `https://host/model.onnx#sha256=…`; the digest may be passed separately instead.

        Raises: DownloadFailed.
        """
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL as exc:
            raise DownloadFailed(
                "expected an address as https://host/model.onnx, got an invalid URL"
            ) from exc
        fragment = url.fragment.removeprefix("sha256=").lower()
        url = url.copy_with(fragment=None)
        if url.scheme != "https" or not url.host:
            raise DownloadFailed(f"expected an address as https://host/model.onnx, got {shown(url)}")
        digest = (sha256 or fragment).lower()
        if not _SHA256.match(digest):
            given = repr(digest[:80]) if digest else "none"
            raise DownloadFailed(
                f"{shown(url)}: expected the sha256 of the file, 64 digits of 0-9a-f, by --sha256 or as "
                f"#sha256=… after the address; got {given}"
            )
        if fragment and fragment != digest:
            raise DownloadFailed(f"{shown(url)}: expected one sha256, got {digest} and {fragment}")
        return cls(url, digest)

    def __str__(self) -> str:
        return shown(self.url)


def shown(url: httpx.URL) -> str:
    """An address without secrets: credentials, the query, and secret parts of the path."""
    return str(sanitised(str(url)))


def fetch(
    remote: Remote, on_progress: OnProgress = ignore_progress, *, limit: int = MAX_FILE
) -> Generator[bytes, None, None]:
    """Yield the bytes as they arrive. It ends without an error only if the content matches the digest.

    Proxies and certificates are taken from the environment.
    Raises: DownloadFailed.
    """
    until = time.monotonic() + _TOTAL_TIMEOUT
    digest, size = hashlib.sha256(), 0
    timeout = httpx.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT)
    with _errors_of(remote), httpx.Client(timeout=timeout) as client, _answer(client, remote) as answer:
        length = answer.headers.get("content-length")
        total = int(length) if length is not None else None
        _check_size(remote, total or 0, limit)
        for piece in answer.iter_raw():
            size += len(piece)
            _check_size(remote, size, limit)
            if time.monotonic() > until:
                raise DownloadFailed(f"{remote}: expected it within {_TOTAL_TIMEOUT:g} s, got {size} bytes")
            digest.update(piece)
            yield piece
            on_progress(size, total)
    if digest.hexdigest() != remote.sha256:
        got = digest.hexdigest()
        raise DownloadFailed(f"{remote}: expected content of sha256 {remote.sha256}, got {got}")


@contextmanager
def _answer(client: httpx.Client, remote: Remote) -> Iterator[httpx.Response]:
    """Follow the redirects to the response with the content. Raises: DownloadFailed, httpx.HTTPError."""
    # The digest is that of the file, not of compressed content.
    request = client.build_request("GET", remote.url, headers={"accept-encoding": "identity"})
    for _ in range(_MAX_REDIRECTS + 1):
        with contextlib.closing(client.send(request, stream=True)) as response:
            if response.next_request is None:
                if response.status_code != httpx.codes.OK:
                    raise DownloadFailed(f"{remote}: expected HTTP 200, got HTTP {response.status_code}")
                yield response
                return
            request = response.next_request
        if request.url.scheme != "https":
            raise DownloadFailed(f"{remote}: expected redirects to https, got {shown(request.url)}")
    raise DownloadFailed(f"{remote}: expected at most {_MAX_REDIRECTS} redirects, got more")


@contextmanager
def _errors_of(remote: Remote) -> Iterator[None]:
    """Turn errors of httpx into errors with the address. Raises: DownloadFailed."""
    try:
        yield
    except httpx.TimeoutException as exc:
        raise DownloadFailed(f"{remote}: no answer in time ({type(exc).__name__})") from exc
    except httpx.HTTPError as exc:
        raise DownloadFailed(f"{remote}: {exc or type(exc).__name__}") from exc


def _check_size(remote: Remote, size: int, limit: int) -> None:
    if size > limit:
        raise DownloadFailed(f"{remote}: expected at most {limit} bytes, got more")
