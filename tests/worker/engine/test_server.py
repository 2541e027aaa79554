"""The engine serves cameras with a model that runs batches, as accelerators do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from streamfleet_worker.engine.interface import Runner
from streamfleet_worker.engine.messages import Done, Failed, Turn
from streamfleet_worker.engine.server import EngineServer
from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout
from tests.fakes.camera_peer import CameraPeer
from tests.fakes.patience import PATIENCE

DARK = 0  # a picture of this value fails


class StandIn:
    """A model on an accelerator. Its output is the first pixel; the first batch waits for `go_on`."""

    provider = "StandInExecutionProvider"
    on_cpu = False
    max_batch = 4

    def __init__(self) -> None:
        self.batches: list[int] = []  # their sizes
        self.began, self.go_on = threading.Event(), threading.Event()

    def layout(self, count: int) -> SlotLayout:
        return SlotLayout((1, 3, 8, 8), ((1, 7, 1),), count)

    def runner(self) -> Runner:
        return self

    def wide_runner(self, threads: int) -> Runner:
        raise AssertionError("an accelerator has no use for several threads")

    def run(self, slots: Sequence[Slot]) -> None:
        self.began.set()
        assert self.go_on.wait(PATIENCE)
        if any(slot.input[0, 0, 0, 0] == DARK for slot in slots):
            raise RuntimeError("it is dark")
        self.batches.append(len(slots))
        for slot in slots:
            slot.outputs[0][:] = slot.input[0, 0, 0, 0]


@pytest.fixture
def model() -> StandIn:
    return StandIn()


@pytest.fixture
def peers(tmp_path: Path, model: StandIn) -> Iterator[list[CameraPeer]]:
    """Six cameras of an engine, with two slots each that hold the camera's number."""
    server = EngineServer(model, str(tmp_path / "engine"), threads=7)
    server.start()
    peers = [CameraPeer(tmp_path).share() for _ in range(6)]
    for number, peer in enumerate(peers, 1):
        for slot in peer.slots:
            slot.input[:] = number
    yield peers
    model.go_on.set()
    for peer in peers:
        peer.link.close()
    server.close(PATIENCE)


def test_what_comes_while_a_batch_runs_makes_the_next_one(model: StandIn, peers: list[CameraPeer]) -> None:
    peers[0].run(0)
    assert model.began.wait(PATIENCE)
    for peer in peers[1:]:
        peer.request_turn(0)
    asked = [peer.hear() for peer in peers[1:5]]  # as many as the next batch takes
    for peer in peers[1:5]:
        peer.run(0)
    model.go_on.set()

    assert asked == [Turn(0)] * 4
    assert [peer.hear() for peer in peers[:5]] == [Done(0)] * 5
    assert peers[5].hear() == Turn(0)
    peers[5].run(0)
    assert peers[5].hear() == Done(0)
    assert model.batches[0] == 1
    assert sum(model.batches) == 6
    for number, peer in enumerate(peers, 1):
        np.testing.assert_array_equal(peer.slots[0].outputs[0], number)


def test_a_picture_that_fails_does_not_fail_the_others_of_its_batch(
    model: StandIn, peers: list[CameraPeer]
) -> None:
    peers[0].run(0)
    assert model.began.wait(PATIENCE)
    peers[2].slots[0].input[:] = DARK
    for peer in peers[1:4]:
        peer.run(0)
    model.go_on.set()

    answers = [peer.hear() for peer in peers[:4]]

    assert answers == [Done(0), Done(0), Failed(0, "it is dark"), Done(0)]
    np.testing.assert_array_equal(peers[3].slots[0].outputs[0], 4)
