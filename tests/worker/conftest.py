"""What the tests of the data half share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamfleet_core.protocol.requests import ListDevices
from streamfleet_core.protocol.values import Manifest
from tests.fakes.models import manifest_of, write_constant_model, write_squares_model
from tests.fakes.peers import Broker
from tests.fakes.playing import Playing
from tests.fakes.ports_and_folders import short_folder
from tests.fakes.process_harness import ProcessHarness


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of one's own, whose path leaves room for unix sockets."""
    with short_folder() as folder:
        yield folder


@pytest.fixture
def stand(folder: Path) -> Iterator[ProcessHarness]:
    """A device without an agent."""
    stand = ProcessHarness(folder)
    yield stand
    stand.close()


@pytest.fixture
def broker(folder: Path) -> Iterator[Broker]:
    """A broker that answers."""
    broker = Broker(folder)
    broker.start()
    broker.ask(ListDevices())
    yield broker
    broker.close()


@pytest.fixture
def squares(stand: ProcessHarness) -> Manifest:
    """An engine that finds the squares of the test pattern."""
    manifest = write_squares_model(stand.folder / "squares.onnx")
    stand.engine(stand.folder / "squares.onnx", manifest)
    return manifest


@pytest.fixture
def quick(stand: ProcessHarness) -> Manifest:
    """An engine that finds one box in every picture, at once."""
    path = stand.folder / "quick.onnx"
    output = np.array([[32, 32, 16, 8, 0.9, 0, 0]], np.float32).T[None]
    write_constant_model(path, output)
    manifest = manifest_of(path, width=64, height=64)
    stand.engine(path, manifest)
    return manifest


@pytest.fixture
def play() -> Iterator[Callable[..., Playing]]:
    """Plays sources, and stops them in the end."""
    begun: list[Playing] = []

    def make(reference: str, **more: Any) -> Playing:
        begun.append(Playing(reference, **more))
        return begun[-1]

    yield make
    for playing in begun:
        playing.reader.stop(10)
        assert not playing.reader.failed
