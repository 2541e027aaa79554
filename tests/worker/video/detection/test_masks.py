"""A mask has the pixels of its box where the logits are above 0."""

from __future__ import annotations

import numpy as np
import pytest

from streamfleet_core.protocol.values import Manifest, Weights
from streamfleet_worker.families.adapter import Candidates
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.letterbox import fit
from streamfleet_worker.video.detection.masks import BoxMask, masks_of
from streamfleet_worker.video.detection.postprocess import decode

MANIFEST = Manifest(
    family="ultralytics",
    labels=("a",),
    input_width=64,
    input_height=64,
    weights=Weights("0" * 64, 1),
    task="segment",
)


def mask_of(box: tuple[float, ...], prototype: np.ndarray) -> BoxMask:
    """The mask of one object with one prototype, in a frame of 128 x 64: 16 rows of margin in the input."""
    found = Candidates(
        boxes=np.zeros((4, 1), np.float32),
        scores=np.ones(1, np.float32),
        classes=np.zeros(1, np.int64),
        coefficients=np.ones((1, 1), np.float32),
    )
    outputs = [np.zeros((1, 6, 1), np.float32), prototype[None, None]]
    boxes = np.array(box, np.float32)[:, None]
    mask: BoxMask = masks_of(found, boxes, outputs, geometry=fit(128, 64, MANIFEST), manifest=MANIFEST)[0]
    return mask


def test_a_pixel_is_in_a_box_if_its_left_and_its_upper_edge_are() -> None:
    mask = mask_of((9.2, 20.0, 12.7, 22.1), np.ones((16, 16), np.float32))

    assert (mask.left, mask.top) == (10, 20)
    np.testing.assert_array_equal(mask.bits, np.ones((3, 3)))


def test_logits_lie_where_the_picture_lies_in_the_input() -> None:
    # The right half of the frame, in a grid of 16 x 16: 8 pixels of the frame for each point.
    prototype = np.full((16, 16), -1, np.float32)
    prototype[:, 8:] = 1

    mask = mask_of((0, 0, 128, 64), prototype)

    expected = np.zeros((64, 128))
    expected[:, 64:] = 1
    np.testing.assert_array_equal(mask.bits, expected)


@pytest.mark.parametrize("box", [(127.2, 3.0, 128.0, 9.0), (3.1, 5.2, 3.8, 5.9)])
def test_a_box_without_a_whole_pixel_has_an_empty_mask_inside_of_the_frame(box: tuple[float, ...]) -> None:
    mask = mask_of(box, np.ones((16, 16), np.float32))

    assert not mask.bits.any()
    assert len(mask.polygon()) == 0
    assert (mask.left, mask.top) == (int(box[0]), int(box[1]))
    assert mask.left < 128


def test_logits_that_are_no_numbers_are_0() -> None:
    prototype = np.full((16, 16), np.nan, np.float32)
    prototype[:, 8:] = np.inf

    mask = mask_of((0, 0, 128, 64), prototype)

    assert mask.bits[:, 80:].all()
    assert not mask.bits[:, :48].any()


def test_an_object_without_any_pixel_is_dropped_with_its_mask() -> None:
    # Two boxes; the only prototype is above 0 for the first one, whose coefficient is 1.
    output = np.zeros((1, 6, 2), np.float32)
    output[0, :4] = [[16, 48], [32, 32], [16, 16], [16, 16]]
    output[0, 4], output[0, 5] = [0.9, 0.8], [1.0, -1.0]
    prototypes = np.ones((1, 1, 16, 16), np.float32)

    found = decode([output, prototypes], fit(64, 64, MANIFEST), manifest=MANIFEST, rules=PostProcessing())

    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, [0.9])
    assert [mask.bits.all() for mask in found.data["masks"]] == [True]


def test_masks_of_a_frame_together_take_bounded_time_and_memory() -> None:
    # A model may find a hundred objects of the size of a frame of 33 million pixels.
    boxes = np.tile(np.array([[0], [0], [8192], [4096]], np.float32), 100)
    found = Candidates(
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, 100, dtype=np.float32),
        classes=np.zeros(100, np.int64),
        coefficients=np.ones((100, 1), np.float32),
    )
    outputs = [np.zeros((1, 6, 100), np.float32), np.ones((1, 1, 16, 16), np.float32)]

    masks = masks_of(found, boxes, outputs, geometry=fit(8192, 4096, MANIFEST), manifest=MANIFEST)

    assert sum(mask.bits.size for mask in masks) <= 2 * 8192 * 8192 + 100
    assert [mask.bits.any() for mask in masks] == [True] * 4 + [False] * 96


def test_prototypes_that_are_read_for_a_frame_are_bounded() -> None:
    # 2048 prototypes of 64 x 64 for each of 200 objects: 1.7 thousand million numbers.
    boxes = np.tile(np.array([[0], [0], [64], [64]], np.float32), 200)
    found = Candidates(
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, 200, dtype=np.float32),
        classes=np.zeros(200, np.int64),
        coefficients=np.ones((200, 2048), np.float32),
    )
    outputs = [np.zeros((1, 2053, 200), np.float32), np.ones((1, 2048, 64, 64), np.float32)]

    masks = masks_of(found, boxes, outputs, geometry=fit(64, 64, MANIFEST), manifest=MANIFEST)

    assert [mask.bits.any() for mask in masks] == [True] * 128 + [False] * 72
