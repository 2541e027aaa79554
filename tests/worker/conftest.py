"""What the tests of the data half share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.stand import Stand


@pytest.fixture
def stand() -> Iterator[Stand]:
    """A device without an agent; its folder has a short path, because those of unix sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    stand = Stand(folder)
    yield stand
    stand.close()
    shutil.rmtree(folder)
