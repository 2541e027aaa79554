"""Pixels become what a model of each family was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from streamfleet_core.protocol.values import Family
from streamfleet_worker.engine.normalize import normalize


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

    normalize(pixels, family, numbers)

    np.testing.assert_allclose(numbers[0, :, 3, 5], expected, rtol=1e-6)
    assert (numbers == numbers[:, :, :1, :1]).all()
