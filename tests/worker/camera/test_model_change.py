"""Another model takes over while the sources play: frames, tracks and the process go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamfleet_core.protocol.values import Manifest, ModelRef, SourceSpec
from streamfleet_worker.ipc.child_messages import Change, ModelConfig
from tests.fakes.models import manifest_of, write_colour_classifier, write_constant_model
from tests.fakes.process_harness import Child, ProcessHarness, until_ended, wait_for, write_video

FRAMES = 320
PACE = 40  # frames/s


@pytest.fixture
def first(stand: ProcessHarness) -> Manifest:
    """A model that finds one box in the middle."""
    path = stand.folder / "first.onnx"
    write_constant_model(path, np.array([[32, 32, 16, 8, 0.9, 0, 0]], np.float32).T[None])
    manifest = manifest_of(path, width=64, height=64, labels=("bolt", "nut", "screw"))
    stand.engine(path, manifest)
    return manifest


def smaller_model(stand: ProcessHarness) -> Manifest:
    """One that finds the same box under another name, in a smaller picture. It has no engine yet."""
    path = stand.folder / "second.onnx"
    write_constant_model(path, np.array([[16, 16, 8, 4, 0.8, 0, 0]], np.float32).T[None], side=32)
    return manifest_of(path, width=32, height=32, labels=("part", "box", "can"))


def change(stand: ProcessHarness, camera: Child, generation: int, manifest: Manifest, **other: Any) -> None:
    spec = replace(camera.config.spec, model=ModelRef("second", manifest.digest), **other)
    camera.tell(Change(generation, "run", spec, (ModelConfig(manifest, str(stand.folder / "second")),)))


def after(stand: ProcessHarness, frames: int, *, generation: int = 1) -> None:
    wait_for("some frames", lambda: sum(one["gen"] == generation for one in stand.receiver.metadata) > frames)


def film(stand: ProcessHarness) -> str:
    return str(write_video(stand.folder / "film.avi", FRAMES))


def assert_whole(stand: ProcessHarness) -> None:
    metadata = stand.receiver.metadata
    keys = [(one["gen"], one["inc"], one["seq"]) for one in metadata]
    assert [one["frame_id"] for one in metadata] == list(range(1, FRAMES + 1))
    assert keys == sorted(set(keys))


def test_a_model_of_another_size_takes_over_between_two_frames_and_tracks_go_on(
    stand: ProcessHarness, first: Manifest
) -> None:
    second = smaller_model(stand)
    stand.engine(stand.folder / "second.onnx", second, name="second")
    camera = stand.camera(first, film(stand), max_fps=PACE, tracker="bytetrack")

    after(stand, 16)
    change(stand, camera, 2, second, max_fps=None)
    report = until_ended(camera)

    assert_whole(stand)
    found = {
        (document["inference_metadata"]["gen"], box["class"], box["tracker_id"])
        for document in stand.receiver.documents
        for box in document["predictions"]
    }
    assert found == {(1, "bolt", 1), (2, "part", 1)}
    assert report.generation == 2
    assert report.sources[0].dropped == {}


def test_a_model_of_another_task_takes_over(stand: ProcessHarness, first: Manifest) -> None:
    second = write_colour_classifier(stand.folder / "second.onnx")
    stand.engine(stand.folder / "second.onnx", second, name="second")
    camera = stand.camera(first, film(stand), max_fps=PACE, tracker="bytetrack", confidence=0.0)

    after(stand, 16)
    change(stand, camera, 2, second, max_fps=None, confidence=0.0)
    until_ended(camera)

    assert_whole(stand)
    kinds = {(one["inference_metadata"]["gen"], "top" in one) for one in stand.receiver.documents}
    assert kinds == {(1, False), (2, True)}


def test_the_former_model_goes_on_until_the_engine_of_the_next_one_answers(
    stand: ProcessHarness, first: Manifest
) -> None:
    second = smaller_model(stand)
    source = (SourceSpec("TestPatternStreamProducer"),)
    camera = stand.camera(first, source, max_fps=PACE)

    after(stand, 16)
    change(stand, camera, 2, second, confidence=0.95)
    wait_for("a stricter frame", lambda: not stand.receiver.documents[-1]["predictions"])
    meanwhile = stand.receiver.metadata[-1]["gen"]
    change(stand, camera, 3, second)
    stand.engine(stand.folder / "second.onnx", second, name="second")
    after(stand, 16, generation=3)
    report = camera.until("it is done", lambda report: report.generation == 3)

    assert meanwhile == 1  # in effect at once, but not done
    assert {one["gen"] for one in stand.receiver.metadata} == {1, 3}
    assert "engine" not in report.sources[0].dropped
    assert [box["class"] for box in stand.receiver.documents[-1]["predictions"]] == ["part"]


def test_the_former_model_can_be_taken_back_meanwhile(stand: ProcessHarness, first: Manifest) -> None:
    second = smaller_model(stand)
    camera = stand.camera(first, film(stand), max_fps=PACE)

    after(stand, 16)
    change(stand, camera, 2, second)
    camera.tell(Change(3, "run", camera.config.spec, camera.config.models))
    camera.until("it is done", lambda report: report.generation == 3)
    camera.change(4, max_fps=None)
    until_ended(camera)

    assert_whole(stand)
    assert {box["class"] for one in stand.receiver.documents for box in one["predictions"]} == {"bolt"}
