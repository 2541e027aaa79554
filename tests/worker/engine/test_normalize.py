"""Pixels become what a model of each family was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from streamfleet_core.protocol.values import Family, Manifest, Weights
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.families.adapters import ADAPTERS

MANIFEST = Manifest(
    family="ultralytics", labels=("a",), input_width=6, input_height=4, weights=Weights("0" * 64, 1)
)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("ultralytics", [0, 0.2, 1]),
        ("end2end", [0, 0.2, 1]),
        ("yolov5", [0, 0.2, 1]),
        ("yolox", [0, 51, 255]),
        ("yolox-decoded", [0, 51, 255]),
    ],
)
def test_each_family_gets_its_range(family: Family, expected: list[float]) -> None:
    pixels = np.empty((1, 3, 4, 6), np.uint8)
    pixels[0] = np.array([0, 51, 255], np.uint8)[:, None, None]
    numbers = np.full(pixels.shape, np.nan, np.float32)

    normalize(pixels, ADAPTERS[family].input_format(MANIFEST).scale, numbers)

    np.testing.assert_allclose(numbers[0, :, 3, 5], expected, rtol=1e-6)
    assert (numbers == numbers[:, :, :1, :1]).all()
