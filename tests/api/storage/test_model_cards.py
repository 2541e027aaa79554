"""Cards of model files: read once, remembered by content."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streamfleet_api.local.demo import demo_model
from streamfleet_api.storage import model_cards
from streamfleet_api.storage.blob_store import Blobs
from streamfleet_api.storage.model_cards import ModelCards
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.models.onnx_file import read_file
from streamfleet_core.models.onnx_graph import Graph
from streamfleet_core.protocol.values import Manifest


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """An empty store."""
    blobs = Blobs(tmp_path / "blobs", limit=10**9)
    blobs.open()
    return blobs


def store(blobs: Blobs, content: bytes) -> tuple[Path, Manifest]:
    """The file of a model in the store, and its manifest."""
    digest = blobs.put_bytes(content)
    path = blobs.find(digest)
    assert path is not None
    return path, validate_model(path, digest)


def test_a_file_is_read_once_for_many_requests(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    path, manifest = store(blobs, demo_model())
    read: list[Path] = []

    def counted(path: Path) -> Graph:
        read.append(path)
        return read_file(path)

    monkeypatch.setattr(model_cards, "read_file", counted)

    async def ask() -> None:
        cards = ModelCards(blobs)
        first, *others = await asyncio.gather(*(cards.find(manifest) for _ in range(5)))
        assert first is not None
        assert others == [first] * 4

    asyncio.run(ask())
    assert read == [path]


def test_a_file_that_is_gone_or_damaged_has_no_card(blobs: Blobs) -> None:
    path, manifest = store(blobs, demo_model())

    async def ask() -> None:
        cards = ModelCards(blobs)
        assert await cards.find(manifest) is not None
        path.unlink()
        assert await cards.find(manifest) is None
        path.write_bytes(b"damaged")
        assert await cards.find(manifest) is None

    asyncio.run(ask())


def test_the_card_not_asked_for_longest_is_forgotten(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cards, "_REMEMBERED", 1)
    _, manifest = store(blobs, demo_model())
    other = store(blobs, demo_model() + b"\xa2\x06\x00")[1]  # a field of no meaning: other content

    async def ask() -> None:
        cards = ModelCards(blobs)
        assert await cards.find(manifest) == await cards.find(other)
        assert list(cards._known) == [other.weights.sha256]

    asyncio.run(ask())
