"""The demo's models: small, and right about the scenes and the test pattern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import supervision as sv
from supervision.metrics import MeanAveragePrecision

from streamfleet_api.local.demo import BOX, CAMERAS, LABELS, SIDE, conveyor_model, demo_model
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.synthetic import parts
from streamfleet_worker.video.synthetic.conveyor import draw, number_of, truth


def test_it_is_a_small_file_that_is_the_same_each_time(tmp_path: Path) -> None:
    content = demo_model()
    path = tmp_path / "demo.onnx"
    path.write_bytes(content)

    onnx.checker.check_model(content, full_check=True)

    assert content == demo_model()
    assert len(content) < 4000
    manifest = validate_model(path, "0" * 64)
    assert (manifest.family, manifest.labels) == ("ultralytics", LABELS)
    assert (manifest.input_width, manifest.input_height) == (SIDE, SIDE)


def test_it_finds_each_square_of_the_pattern_and_nothing_else() -> None:
    session = onnxruntime.InferenceSession(demo_model())
    # 1920x1080 as a letterbox: a sixth of the size, grey bars above and below; 192 px become 32.
    image = np.full((3, SIDE, SIDE), 114, np.float32)
    image[:, 70:250] = 30
    truth = {0: (50, 100), 1: (151, 102), 2: (283, 215)}
    for channel, (x, y) in truth.items():
        image[:, y : y + BOX, x : x + BOX] = 0
        image[channel, y : y + BOX, x : x + BOX] = 255

    (output,) = session.run(None, {"images": image[None] / 255})

    assert output.shape == (1, 7, 5329)
    boxes, scores = output[0, :4], output[0, 4:]
    assert scores.min() >= 0
    assert scores.max() <= 1
    for channel, (x, y) in truth.items():
        best = scores[channel].argmax()
        assert scores[channel, best] > 0.75
        assert np.abs(boxes[:, best] - [x + BOX / 2, y + BOX / 2, BOX, BOX]).max() <= 2
        # Every box above the usual threshold overlaps the best one enough to be merged into it.
        shift = np.abs(boxes[:2, scores[channel] > 0.4] - boxes[:2, best, None])
        common = (BOX - shift).prod(axis=0)
        assert (common / (2 * BOX**2 - common)).min() > 0.3


def conveyor_manifest(folder: Path) -> Manifest:
    path = folder / "conveyor.onnx"
    path.write_bytes(conveyor_model())
    return validate_model(path, "0" * 64)


def test_the_detector_is_a_small_file_that_says_what_it_finds(tmp_path: Path) -> None:
    content = conveyor_model()

    onnx.checker.check_model(content, full_check=True)

    assert len(content) <= 1_000_000
    manifest = conveyor_manifest(tmp_path)
    assert (manifest.family, manifest.labels) == ("ultralytics", parts.LABELS)
    assert (manifest.input_width, manifest.input_height) == (320, 320)


def test_the_detector_finds_the_parts_on_belts_that_it_never_saw(tmp_path: Path) -> None:
    """`demo/train.py` learns from numbers from 1000 on; the cameras of the demo are not among them."""
    manifest = conveyor_manifest(tmp_path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(conveyor_model(), options)
    letterbox = Letterbox(manifest)
    pixels, blob = np.empty((1, 3, 320, 320), np.uint8), np.empty((1, 3, 320, 320), np.float32)
    metric = MeanAveragePrecision()

    for number in (*range(900, 916), *map(number_of, CAMERAS.values())):
        for frame_id in (50, 333, 1210, 7001):
            geometry = letterbox.write(ArrayPicture(draw(number, frame_id)), pixels)
            normalize(pixels, input_format_of(manifest).scale, blob)
            (output,) = session.run(None, {"images": blob})
            found = decode([output], geometry, manifest=manifest, rules=PostProcessing())
            boxes, class_ids = truth(number, frame_id)
            metric.update(found, sv.Detections(xyxy=boxes, class_id=class_ids))

    assert metric.compute().map50 >= 0.95
