"""What the model files say about themselves, read when someone asks, and remembered by their content.

Reading passes over the whole file, so only one is read at a time. Content never changes under its digest, so
what was read stays right; after a restart it is read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from pathlib import Path

from streamfleet_api.storage.blob_store import Blobs
from streamfleet_core.models.model_card import FileCard, card_of
from streamfleet_core.models.onnx_file import read_file
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.values import Manifest

logger = logging.getLogger(__name__)

_REMEMBERED = 256  # cards of about 2 kB; the one that was not asked for longest is forgotten


class ModelCards:
    """The cards of the blobs."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._reading = asyncio.Lock()
        self._known: OrderedDict[str, FileCard] = OrderedDict()  # by sha256 of the file

    async def find(self, manifest: Manifest) -> FileCard | None:
        """The card of a model; None if its file is missing or damaged."""
        digest = manifest.weights.sha256
        async with self._reading:
            path = self._blobs.find(digest)
            if path is None:
                self._known.pop(digest, None)
                return None
            card = self._known.get(digest) or await asyncio.to_thread(_read, path)
            if card is not None:
                self._known[digest] = card
                self._known.move_to_end(digest)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return card


def _read(path: Path) -> FileCard | None:
    try:
        return card_of(read_file(path))
    except (BadModel, OSError) as exc:  # it was read once when it was added
        logger.warning("%s: cannot be read again: %s", path, exc)
        return None
