"""What the tests of the data half share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamfleet_broker.protocol.values import Manifest
from tests.worker.models import manifest_of, write_constant_model, write_squares_model
from tests.worker.stand import Stand


@pytest.fixture
def stand() -> Iterator[Stand]:
    """A device without an agent; its folder has a short path, because those of unix sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    stand = Stand(folder)
    yield stand
    stand.close()
    shutil.rmtree(folder)


@pytest.fixture
def squares(stand: Stand) -> Manifest:
    """An engine that finds the squares of the test pattern."""
    manifest = write_squares_model(stand.folder / "squares.onnx")
    stand.engine(stand.folder / "squares.onnx", manifest)
    return manifest


@pytest.fixture
def quick(stand: Stand) -> Manifest:
    """An engine that finds one box in every picture, at once."""
    path = stand.folder / "quick.onnx"
    output = np.array([[32, 32, 16, 8, 0.9, 0, 0]], np.float32).T[None]
    write_constant_model(path, output)
    manifest = manifest_of(path, width=64, height=64)
    stand.engine(path, manifest)
    return manifest
