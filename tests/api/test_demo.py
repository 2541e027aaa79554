"""The demo's model: small, the same each time, and right about the test pattern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from streamfleet_api.demo import BOX, LABELS, SIDE, demo_model
from streamfleet_api.modelfile import inspect


def test_it_is_a_small_file_that_is_the_same_each_time(tmp_path: Path) -> None:
    content = demo_model()
    path = tmp_path / "demo.onnx"
    path.write_bytes(content)

    onnx.checker.check_model(content, full_check=True)

    assert content == demo_model()
    assert len(content) < 4000
    manifest = inspect(path, "0" * 64)
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
