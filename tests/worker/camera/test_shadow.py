"""Another model infers some frames beside the pipeline's own one: it is compared, and publishes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.ipc.child_messages import CameraReport, Compare, ModelConfig
from tests.fakes.models import manifest_of, write_constant_model, write_picky_model
from tests.fakes.process_harness import Child, ProcessHarness

LABELS = ("bolt", "nut", "screw")
SOURCE = "TestPatternStreamProducer"


def columns(*boxes: list[float]) -> np.ndarray:
    return np.array(boxes, np.float32).T[None]


@pytest.fixture
def own(stand: ProcessHarness) -> Manifest:
    """A model that finds two boxes in every picture."""
    path = stand.folder / "own.onnx"
    write_constant_model(path, columns([20, 32, 8, 8, 0.9, 0, 0], [44, 32, 8, 8, 0, 0.9, 0]))
    manifest = manifest_of(path, width=64, height=64, labels=LABELS)
    stand.engine(path, manifest)
    return manifest


def other(stand: ProcessHarness, *boxes: list[float], labels: tuple[str, ...] = LABELS) -> Manifest:
    """An engine that finds these boxes in every picture, in half the size."""
    path = stand.folder / "other.onnx"
    write_constant_model(path, columns(*boxes), side=32)
    manifest = manifest_of(path, width=32, height=32, labels=labels)
    stand.engine(path, manifest, name="other")
    return manifest


def compare(stand: ProcessHarness, camera: Child, manifest: Manifest, **more: Any) -> None:
    model = ModelConfig(manifest, str(stand.folder / "other"))
    camera.tell(Compare(model, share=more.pop("share", 1.0), **more))


def compared(camera: Child, frames: int = 10) -> CameraReport:
    report = camera.until(
        f"{frames} frames are compared", lambda each: each.shadow is not None and each.shadow.frames >= frames
    )
    assert isinstance(report, CameraReport)
    return report


def test_an_equal_model_agrees_whatever_its_size_and_the_order_of_its_classes(
    stand: ProcessHarness, own: Manifest
) -> None:
    same = other(
        stand,
        [10, 16, 4, 4, 0, 0.8, 0],
        [22, 16, 4, 4, 0, 0, 0.8],
        labels=("screw", "bolt", "nut"),
    )
    camera = stand.camera(own, SOURCE, max_fps=20)

    compare(stand, camera, same)
    counts = compared(camera).shadow
    camera.tell(Compare(None))
    camera.until("it is over", lambda report: report.shadow is None)

    assert counts is not None
    assert counts.own_boxes == counts.boxes == counts.paired == counts.same_class == 2 * counts.frames
    assert (counts.blind, counts.differing, counts.failed, counts.samples) == (0, 0, 0, 0)
    assert None not in (counts.latency, counts.own_latency)
    assert {len(document["predictions"]) for document in stand.receiver.documents} == {2}


def test_a_blind_model_is_counted_and_the_frames_are_kept_within_limits(
    stand: ProcessHarness, own: Manifest
) -> None:
    blind = other(stand, [10, 16, 4, 4, 0.1, 0, 0])
    camera = stand.camera(own, SOURCE, max_fps=20)

    compare(stand, camera, blind, dataset="differing")
    report = compared(camera, 15)
    counts = report.shadow
    camera.until("they are written", lambda each: each.samples.written == each.samples.picked > 0)

    assert counts is not None
    assert counts.blind == counts.differing == counts.frames
    assert (counts.boxes, counts.paired) == (0, 0)
    assert 0 < counts.samples <= 20  # ten in a minute, and a minute may end meanwhile
    files = Path(stand.folder / "samples").rglob("*.json")
    sample = next(each for path in files if "tags" in (each := json.loads(path.read_bytes())))
    assert (sample["strategy"], sample["tags"], sample["dataset"]) == ("differs", ["differs"], "differing")
    assert len(sample["prediction"]["predictions"]) == 2  # of the pipeline's own model


def test_only_a_share_of_the_frames_is_inferred_twice(stand: ProcessHarness, own: Manifest) -> None:
    same = other(stand, [10, 16, 4, 4, 0.8, 0, 0], [22, 16, 4, 4, 0, 0.8, 0])
    camera = stand.camera(own, SOURCE, max_fps=20)

    compare(stand, camera, same, share=0.25)
    began = camera.until("it begins", lambda each: each.shadow is not None).emitted
    report = compared(camera, 5)

    assert report.shadow is not None
    assert report.shadow.frames <= (report.emitted - began) * 0.25 + 2


def test_a_shadow_that_fails_or_dies_disturbs_nothing(stand: ProcessHarness, own: Manifest) -> None:
    path = stand.folder / "picky.onnx"
    picky = write_picky_model(path)
    engine = stand.engine(path, picky, name="other")
    camera = stand.camera(own, SOURCE, max_fps=20)

    compare(stand, camera, picky)
    camera.until("inferences are tried", lambda each: each.shadow and each.shadow.failed + each.shadow.frames)
    engine.kill()
    emitted = camera.reports[-1].emitted
    report = camera.until("it goes on", lambda each: each.emitted > emitted + 20)

    assert report.sources[0].dropped.get("engine", 0) == 0
    assert report.state.value == "running"
