"""Run lengths are those of COCO: to supervision, to a plain reader, and back."""

from __future__ import annotations

import numpy as np
import pytest
import supervision as sv

from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.outputs.rle import mask_of, rle_of
from tests.fakes.findings import blob, dense


def plain(text: str, width: int, height: int) -> np.ndarray:
    """The mask, read character by character."""
    lengths: list[int] = []
    at = 0
    while at < len(text):
        number = place = 0
        while True:
            group = ord(text[at]) - 48
            at += 1
            number |= (group & 31) << 5 * place
            place += 1
            if not group & 32:
                break
        if group & 16:
            number -= 1 << 5 * place
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
    pixels = [at % 2 for at, length in enumerate(lengths) for _ in range(length)]
    return np.array(pixels, np.bool_).reshape(width, height).T


@pytest.mark.parametrize("density", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize(
    "place", [(0, 0, 40, 30), (0, 0, 1, 1), (39, 29, 1, 1), (5, 0, 7, 30), (0, 9, 40, 1), (3, 4, 20, 12)]
)
def test_the_text_is_supervisions_and_is_read_back(place: tuple[int, int, int, int], density: float) -> None:
    left, top, width, height = place
    bits = (np.random.default_rng(7).random((height, width)) < density).astype(np.uint8)
    mask = BoxMask(left, top, bits)
    whole = dense(mask, width=40, height=30)

    text = rle_of(mask, width=40, height=30)

    assert text == sv.mask_to_rle(whole, compressed=True)
    np.testing.assert_array_equal(plain(text, 40, 30), whole)
    np.testing.assert_array_equal(sv.rle_to_mask(text, (40, 30)), whole)
    np.testing.assert_array_equal(dense(mask_of(text, width=40, height=30), width=40, height=30), whole)


def test_a_large_mask_is_read_back() -> None:
    mask = blob(1200, 80, 700, 990)

    text = rle_of(mask, width=1920, height=1080)
    back = mask_of(text, width=1920, height=1080)

    np.testing.assert_array_equal(sv.rle_to_mask(text, (1920, 1080)), dense(mask))
    np.testing.assert_array_equal(dense(back), dense(mask))
    assert back.bits.size <= mask.bits.size


def test_what_lies_outside_of_the_frame_is_cut_off() -> None:
    mask = BoxMask(-2, 5, np.ones((10, 4), np.uint8))

    text = rle_of(mask, width=6, height=8)

    expected = np.zeros((8, 6), np.bool_)
    expected[5:, :2] = True
    np.testing.assert_array_equal(sv.rle_to_mask(text, (6, 8)), expected)


@pytest.mark.parametrize(
    ("text", "width", "height"),
    [
        ("", 4, 4),
        ("52203", 4, 5),  # of 16 pixels
        ("5220", 4, 4),
        ("P", 4, 4),  # another group should follow
        ("oooooooooooo0", 4, 4),
        ("ooooooo?", 4, 4),
        ("\x01", 4, 4),
        ("ä", 4, 4),
        ("~~~", 4, 4),
        ("<L0", 4, 4),  # a negative length
        ("52203", 0, 4),
        ("52203", 10_000, 10_000),
        ("ooooooO" * 1000 + "0", 8192, 8192),
    ],
)
def test_a_text_that_is_no_mask_is_refused(text: str, width: int, height: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        mask_of(text, width=width, height=height)
