"""Run lengths of masks: those that `supervision` writes are read, and any other text is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision.detection.utils.converters import mask_to_rle

from streamfleet_core.datasets.run_lengths import runs_of
from streamfleet_core.protocol.errors import BadData

_MASKS = [
    np.zeros((4, 5), np.bool_),
    np.ones((4, 5), np.bool_),
    np.ones((300, 200), np.bool_),
    np.eye(40, 30, dtype=np.bool_),
    np.random.default_rng(7).random((70, 90)) < 0.3,
    np.add.outer(np.arange(400), np.arange(300)) % 150 < 100,
]


@pytest.mark.parametrize("mask", _MASKS, ids=lambda mask: str(mask.shape))
def test_the_runs_are_those_of_the_mask(mask: np.ndarray) -> None:
    counts = mask_to_rle(mask, compressed=True)
    assert isinstance(counts, str)

    runs = runs_of({"size": [*mask.shape], "counts": counts})

    inside = np.arange(len(runs)) % 2 == 1
    assert (np.repeat(inside, runs) == mask.ravel(order="F")).all()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ("", "runs of 20 pixels in a mask, got 0 others"),
        ("d0d0", "runs of 20 pixels"),
        ("h", "compressed run lengths, got a text that is cut short"),
        ("f0N", "runs of 20 pixels"),  # 22 outside, then -2 inside
        ("€", "compressed run lengths, got '€'"),
        (" ", "compressed run lengths, got ' '"),
        ("o" * 9, "compressed run lengths, got 'ooooooooo'"),
    ],
)
def test_another_text_is_refused(counts: str, expected: str) -> None:
    with pytest.raises(BadData, match=expected):
        runs_of({"size": [4, 5], "counts": counts})


@given(st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=40))
def test_any_text_is_read_or_refused(counts: str) -> None:
    try:
        runs = runs_of({"size": [4, 5], "counts": counts})
    except BadData:
        return
    assert sum(runs) == 20
    assert min(runs) >= 0
