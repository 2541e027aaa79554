"""Models are fetched once, whole, and as what they are named."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from streamfleet_core.protocol.values import Manifest, Variant, Weights
from streamfleet_core.runtime.pinned_tls import fingerprint_of
from streamfleet_worker.agent.blob_cache import Source
from streamfleet_worker.agent.model_cache import ModelCache
from streamfleet_worker.decisions.reconcile_events import ModelFetched, ModelRefused
from tests.fakes import web
from tests.fakes.patience import PATIENCE
from tests.fakes.web import Web, make_certificate

WEIGHTS = bytes(range(256)) * 12_000  # 3 MB: more than one turn to the disk
MANIFEST = Manifest(
    family="yolox",
    labels=("person",),
    input_width=64,
    input_height=64,
    weights=Weights(hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS)),
)
FETCHED = ModelFetched(MANIFEST.digest, MANIFEST)
BOARD = "a board"
SMALL = b"a variant"
VARIANT = Variant(
    board=BOARD,
    provider="CPUExecutionProvider",
    precision="int8",
    weights=Weights(hashlib.sha256(SMALL).hexdigest(), len(SMALL)),
    speedup=2,
    agreement=0.99,
)


@dataclass
class Api:
    """Serves blobs as the real one does, and can fail in the ways of networks."""

    blobs: dict[str, bytes]
    requests: list[tuple[str, str]] = field(default_factory=list)  # digest and Range
    statuses: list[int] = field(default_factory=list)  # to answer with, first
    cut_after: int | None = None  # bytes, once
    url: str = ""


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            digest = self.path.rpartition("/")[2]
            api.requests.append((digest, self.headers.get("Range", "")))
            if self.headers["Authorization"] != "Bearer ticket":
                return self.send_error(401)
            if api.statuses:
                return self.send_error(api.statuses.pop(0))
            if digest not in api.blobs:
                return self.send_error(404)
            return self.answer(api.blobs[digest])

        def answer(self, content: bytes) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end, api.cut_after = api.cut_after, None
            self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    with web.serving(Handler) as api.url:
        yield api


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api({MANIFEST.digest: MANIFEST.encode(), MANIFEST.weights.sha256: WEIGHTS})) as api:
        yield api


class Fetcher:
    """Models, and what was said of them."""

    def __init__(self, directory: Path) -> None:
        self.events: list[ModelFetched | ModelRefused] = []
        self._came: asyncio.Queue[ModelFetched | ModelRefused] = asyncio.Queue()
        self.models = ModelCache(directory, self._on_event, lambda: 0.0, board=BOARD)
        self.models._blobs._client.timeout = httpx.Timeout(
            PATIENCE
        )  # this process serves too, and may stand still

    def _on_event(self, event: ModelFetched | ModelRefused) -> None:
        self.events.append(event)
        self._came.put_nowait(event)

    async def next(self) -> ModelFetched | ModelRefused:
        return await asyncio.wait_for(self._came.get(), PATIENCE)


@pytest.fixture
async def fetcher(tmp_path: Path) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(tmp_path)
    yield fetcher
    await fetcher.models.close()


async def test_a_model_is_fetched_with_its_weights(fetcher: Fetcher, api: Api, tmp_path: Path) -> None:
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)

    assert await fetcher.next() == FETCHED
    assert fetcher.models.path(MANIFEST.weights.sha256).read_bytes() == WEIGHTS
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([MANIFEST.digest, MANIFEST.weights.sha256])


async def test_what_is_here_needs_no_network(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / MANIFEST.digest).write_bytes(MANIFEST.encode())
    (tmp_path / MANIFEST.weights.sha256).write_bytes(WEIGHTS)

    fetcher.models.fetch(MANIFEST.digest)

    assert await fetcher.next() == FETCHED


@pytest.mark.parametrize(
    ("board", "is_there", "fetched"), [(BOARD, True, True), (BOARD, False, False), ("another", True, False)]
)
async def test_the_variant_for_this_board_is_fetched_beside_the_model(
    fetcher: Fetcher, api: Api, board: str, is_there: bool, fetched: bool
) -> None:
    manifest = MANIFEST.with_variant(replace(VARIANT, board=board))
    api.blobs[manifest.digest] = manifest.encode()
    if is_there:
        api.blobs[VARIANT.weights.sha256] = SMALL

    fetcher.models.use(Source(api.url, "ticket"))
    fetcher.models.fetch(manifest.digest)

    expected = ModelFetched(manifest.digest, manifest, VARIANT if fetched else None)
    assert await fetcher.next() == expected
    assert fetcher.models.path(VARIANT.weights.sha256).exists() == fetched
    assert fetcher.models.path(MANIFEST.weights.sha256).exists()


async def test_a_download_that_broke_off_goes_on_where_it_was(fetcher: Fetcher, api: Api) -> None:
    api.blobs = {MANIFEST.weights.sha256: WEIGHTS}
    fetcher.models.path(MANIFEST.digest).write_bytes(MANIFEST.encode())
    api.cut_after = 2_000_000
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)
    first = await fetcher.next()
    second = await fetcher.next()

    assert isinstance(first, ModelRefused)
    assert not first.permanent
    assert second == FETCHED
    resumed = int(api.requests[1][1].removeprefix("bytes=").removesuffix("-"))
    assert 0 < resumed <= 2_000_000


async def test_a_damaged_part_is_fetched_anew(fetcher: Fetcher, api: Api, tmp_path: Path) -> None:
    (tmp_path / MANIFEST.digest).write_bytes(MANIFEST.encode())
    (tmp_path / f"{MANIFEST.weights.sha256}.part").write_bytes(b"x" * 1000)
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)
    first = await fetcher.next()

    assert isinstance(first, ModelRefused)
    assert not first.permanent
    assert await fetcher.next() == FETCHED


async def test_a_content_that_is_not_what_it_is_named_is_refused_for_good(fetcher: Fetcher, api: Api) -> None:
    api.blobs[MANIFEST.weights.sha256] = WEIGHTS[:-1] + b"!"
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)

    refused = await fetcher.next()
    assert isinstance(refused, ModelRefused)
    assert refused.permanent
    assert not fetcher.models.path(MANIFEST.weights.sha256).exists()


async def test_more_than_was_announced_is_refused_for_good(fetcher: Fetcher, api: Api) -> None:
    api.blobs[MANIFEST.weights.sha256] = WEIGHTS + b"!"
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)

    refused = await fetcher.next()
    assert isinstance(refused, ModelRefused)
    assert refused.permanent


@pytest.mark.parametrize(("status", "permanent"), [(404, True), (500, False), (401, False), (503, False)])
async def test_only_what_will_not_heal_is_refused_for_good(
    fetcher: Fetcher, api: Api, status: int, permanent: bool
) -> None:
    api.statuses = [status]
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)

    refused = await fetcher.next()
    assert isinstance(refused, ModelRefused)
    assert (refused.permanent, f"HTTP {status}" in refused.reason) == (permanent, True)
    if not permanent:
        assert await fetcher.next() == FETCHED


async def test_a_manifest_that_cannot_be_read_is_refused_for_good(fetcher: Fetcher, api: Api) -> None:
    content = b'{"family": "unheard of"}'
    digest = hashlib.sha256(content).hexdigest()
    api.blobs[digest] = content
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(digest)

    refused = await fetcher.next()
    assert isinstance(refused, ModelRefused)
    assert refused.permanent
    assert "family" in refused.reason


async def test_a_new_session_tries_at_once(fetcher: Fetcher, api: Api) -> None:
    fetcher.models.fetch(MANIFEST.digest)
    waiting = await fetcher.next()

    fetcher.models.use(Source(api.url, "ticket"))

    assert waiting == ModelRefused(MANIFEST.digest, "no address to fetch from yet", permanent=False)
    assert await fetcher.next() == FETCHED


async def test_two_models_with_the_same_weights_fetch_them_once(fetcher: Fetcher, api: Api) -> None:
    other = Manifest(
        family="yolox", labels=("car",), input_width=64, input_height=64, weights=MANIFEST.weights
    )
    api.blobs[other.digest] = other.encode()
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)
    fetcher.models.fetch(other.digest)
    while len(fetcher.events) < 2:
        await fetcher.next()

    assert [digest for digest, _ in api.requests].count(MANIFEST.weights.sha256) == 1


async def test_nobody_reached_is_tried_again(fetcher: Fetcher, api: Api) -> None:
    fetcher.models.use(Source("http://127.0.0.1:9", "ticket"))
    fetcher.models.fetch(MANIFEST.digest)
    refused = await fetcher.next()

    fetcher.models.use(Source(api.url, "ticket"))

    assert isinstance(refused, ModelRefused)
    assert "http://127.0.0.1:9 cannot be reached" in refused.reason
    assert await fetcher.next() == FETCHED


@pytest.mark.parametrize(
    ("blob", "damaged"),
    [
        (MANIFEST.digest, MANIFEST.encode().replace(b"person", b"nobody")),
        (MANIFEST.digest, b"{"),
        (MANIFEST.digest, b""),
        (MANIFEST.weights.sha256, WEIGHTS[:-1]),
        (MANIFEST.weights.sha256, b""),
    ],
)
async def test_what_the_disk_has_damaged_is_fetched_again(
    fetcher: Fetcher, api: Api, tmp_path: Path, blob: str, damaged: bytes
) -> None:
    for digest, content in api.blobs.items():
        (tmp_path / digest).write_bytes(content)
    (tmp_path / blob).write_bytes(damaged)
    fetcher.models.use(Source(api.url, "ticket"))

    fetcher.models.fetch(MANIFEST.digest)

    assert await fetcher.next() == FETCHED
    assert (tmp_path / blob).read_bytes() == api.blobs[blob]
    assert [digest for digest, _ in api.requests] == [blob]


# over TLS -------------------------------------------------------------------------------------------------


async def test_over_tls_a_blob_and_the_ticket_go_to_the_certificate_that_the_broker_told(
    tmp_path: Path,
) -> None:
    web = Web(make_certificate(tmp_path))
    pin = fingerprint_of(web.certificate.read_text())
    for digest, content in ((MANIFEST.digest, MANIFEST.encode()), (MANIFEST.weights.sha256, WEIGHTS)):
        web.files[f"/v2/blobs/{digest}"] = content
    events: asyncio.Queue[ModelFetched | ModelRefused] = asyncio.Queue()
    models = ModelCache(tmp_path, events.put_nowait, lambda: 0.0)
    try:
        models.use(Source.of(f"http://{web.place}", "ticket", "ab" * 32))
        models.fetch(MANIFEST.digest)
        refused = await asyncio.wait_for(events.get(), PATIENCE)
        assert isinstance(refused, ModelRefused)
        assert "expected the certificate abab" in refused.reason
        assert web.requests == []

        models.use(Source.of(f"http://{web.place}", "ticket", pin))

        while not isinstance(found := await asyncio.wait_for(events.get(), PATIENCE), ModelFetched):
            pass
        assert found == FETCHED
        assert {given for _, given in web.requests} == {"Bearer ticket"}
    finally:
        await models.close()
        await asyncio.to_thread(web.close)
