"""A stage at an engine that the test holds: what is submitted, in which order, and what is late."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.values import Manifest, ModelRef, Stage, Weights
from streamfleet_worker.camera.stages.crops import Crop
from streamfleet_worker.camera.stages.nested_findings import NestedFindings
from streamfleet_worker.camera.stages.stage_runner import StageRunner
from streamfleet_worker.engine.server import EngineServer
from streamfleet_worker.ipc.child_messages import ModelConfig, PostProcessing
from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import wait_for

SIDE = 32  # pixels of the input, and of each crop
MANIFEST = Manifest(
    family="ultralytics",
    labels=("a",),
    input_width=SIDE,
    input_height=SIDE,
    weights=Weights("0" * 64, 1),
)
STAGE = Stage(name="text", model=ModelRef("text/1", "0" * 64))
NOW, LATER = 0.0, 100.0  # monotonic seconds


class HeldModel:
    """Infers on one crop whenever it is released, and notes its brightness."""

    provider, on_cpu, max_batch = "CPUExecutionProvider", True, 1

    def __init__(self) -> None:
        self.released = threading.Semaphore(0)
        self.seen: list[int] = []

    def layout(self, count: int) -> SlotLayout:
        return SlotLayout((1, 3, SIDE, SIDE), ((1, 5, 1),), count)

    def runner(self) -> HeldModel:
        return self

    def wide_runner(self, threads: int) -> HeldModel:
        return self

    def run(self, slots: Sequence[Slot]) -> None:
        (slot,) = slots
        assert self.released.acquire(timeout=PATIENCE)
        self.seen.append(int(slot.input[0, 0, 0, 0]))
        slot.outputs[0][0, :, 0] = [SIDE / 2, SIDE / 2, 8, 8, 0.9]


@pytest.fixture
def model() -> HeldModel:
    return HeldModel()


@pytest.fixture
def runner(folder: Path, model: HeldModel) -> Iterator[StageRunner]:
    """A stage with its engine."""
    server = EngineServer(model, str(folder / "engine"), threads=1)
    server.start()
    runner = StageRunner(STAGE, ModelConfig(MANIFEST, str(folder / "engine")), PostProcessing())
    yield runner
    runner.close()
    model.released.release(100)
    server.close(PATIENCE)


def add(runner: StageRunner, frame: NestedFindings, *brightnesses: int) -> None:
    """Add a crop of each brightness."""
    image = np.repeat(np.array(brightnesses, np.uint8), SIDE)[None, :, None] * np.ones((SIDE, 1, 3), np.uint8)
    for index in range(len(brightnesses)):
        crop = Crop(index=index, left=index * SIDE, top=0, right=(index + 1) * SIDE, bottom=SIDE)
        runner.add(frame, 0, crop, image)


def release(runner: StageRunner, model: HeldModel, count: int) -> None:
    """Let so many crops be inferred, one after the other."""
    for _ in range(count):
        before = runner.stat.inferred + runner.stat.late
        model.released.release()

        def done(before: int = before) -> bool:
            runner.step(NOW)
            return runner.stat.inferred + runner.stat.late > before

        wait_for("an answer", done)


def test_the_newest_frame_is_next_though_older_ones_wait(runner: StageRunner, model: HeldModel) -> None:
    old, new = NestedFindings(until=LATER), NestedFindings(until=LATER)
    add(runner, old, 10, 20, 30, 40, 50, 60)
    runner.step(NOW)  # four of them are at the engine
    add(runner, new, 200, 210)

    release(runner, model, 8)

    assert model.seen == [10, 20, 30, 40, 200, 210, 50, 60]
    assert sorted(old.close()) == [0, 1, 2, 3, 4, 5]
    assert sorted(new.close()) == [0, 1]


def test_what_a_frame_has_gone_on_without_is_late_and_takes_no_turn(
    runner: StageRunner, model: HeldModel
) -> None:
    gone, here = NestedFindings(until=LATER), NestedFindings(until=LATER)
    add(runner, gone, 10, 20, 30, 40, 50, 60)
    runner.step(NOW)
    gone.close()
    add(runner, here, 200)

    release(runner, model, 5)  # those at the engine cannot be taken back

    assert model.seen == [10, 20, 30, 40, 200]
    assert (runner.stat.inferred, runner.stat.late) == (1, 6)
    assert here.is_complete(NOW)


def test_boxes_are_in_pixels_of_the_whole_frame(runner: StageRunner, model: HeldModel) -> None:
    frame = NestedFindings(until=None)
    add(runner, frame, 10, 20)
    runner.step(NOW)

    release(runner, model, 2)

    for index, found in frame.close().items():
        assert isinstance(found["text"], sv.Detections)
        np.testing.assert_allclose(found["text"].xyxy, [[index * SIDE + 12, 12, index * SIDE + 20, 20]])
    assert len(frame.close()) == 2
