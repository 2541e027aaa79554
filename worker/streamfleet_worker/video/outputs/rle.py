"""Masks as COCO's compressed run-length encoding (RLE): as text, which JSON can hold. Pure.

The pixels of the frame are counted down each column, from left to right: the lengths of the runs that are
not set and that are set, in turn. From the fourth on, a length is the difference to the last but one.
Each number is written in groups of 5 bits, the lowest first, as characters from `0` on: of a group, bit 6
says that another one follows, and the highest bit of the last one is the sign (cocoapi, common/maskApi.c).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamfleet_worker.video.detection.masks import BoxMask

_MOST_PIXELS = 8192 * 8192  # of a frame whose masks are decoded
_FIRST = ord("0")
_MORE = 0x20  # another group follows
_BITS = 5  # of a group
_MOST_GROUPS = 7  # of a number: 35 bits

_Integers = npt.NDArray[np.int64]


def rle_of(mask: BoxMask, *, width: int, height: int) -> str:
    """Encode a mask in a frame of this size in pixels."""
    return _text(_lengths(mask, width, height))


def mask_of(counts: str, *, width: int, height: int) -> BoxMask:
    """Decode a mask in a frame of this size. Raises: ValueError for any text that is none."""
    if not 0 < width * height <= _MOST_PIXELS:
        raise ValueError(f"expected a mask of 1 to {_MOST_PIXELS} pixels, got {width}x{height}")
    lengths = _numbers(counts)
    if (lengths < 0).any() or lengths.sum() != width * height:
        raise ValueError(f"expected run lengths of {width * height} pixels, got {counts[:40]!r}")
    ends = np.cumsum(lengths)
    set_runs = np.flatnonzero(lengths[1::2]) * 2 + 1
    if not len(set_runs):
        return BoxMask(0, 0, np.zeros((1, 1), np.uint8))
    left = int((ends[set_runs[0]] - lengths[set_runs[0]]) // height)
    right = int((ends[set_runs[-1]] - 1) // height) + 1
    # Only the columns from the first run to the last one are filled.
    limits = np.clip(ends, left * height, right * height)
    inside = limits - np.concatenate([[left * height], limits[:-1]])
    bits = np.repeat((np.arange(len(inside)) & 1).astype(np.uint8), inside).reshape(-1, height).T
    rows = np.flatnonzero(bits.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return BoxMask(left, top, np.ascontiguousarray(bits[top:bottom]))


def _lengths(mask: BoxMask, width: int, height: int) -> _Integers:
    """The lengths of the runs, of which the first may be 0."""
    left, top = max(0, mask.left), max(0, mask.top)
    bits = mask.bits[top - mask.top : height - mask.top, left - mask.left : width - mask.left]
    # With an empty row above and below, each run of a column begins and ends within it.
    columns = np.zeros((bits.shape[1], bits.shape[0] + 2), np.uint8)
    columns[:, 1:-1] = bits.T
    changes = np.flatnonzero(columns.ravel()[1:] != columns.ravel()[:-1])
    column, row = np.divmod(changes, columns.shape[1])
    places = (column + left) * height + row + top
    # A run down to the last row goes on in the next column, if that is set in its first row.
    split = np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1
    places = np.delete(places, np.concatenate([split, split + 1]))
    lengths = np.diff(places, prepend=0, append=width * height)
    return lengths[:-1] if lengths[-1] == 0 else lengths


def _text(lengths: _Integers) -> str:
    numbers = lengths.astype(np.int64)
    numbers[3:] -= lengths[1:-2]
    groups = np.empty((len(numbers), _MOST_GROUPS), np.uint8)
    used = np.zeros((len(numbers), _MOST_GROUPS), np.bool_)
    more = np.ones(len(numbers), np.bool_)
    for place in range(_MOST_GROUPS):
        used[:, place] = more
        group = numbers & (_MORE - 1)
        numbers >>= _BITS
        more = more & (numbers != np.where(group & (_MORE >> 1), -1, 0))
        groups[:, place] = group + np.where(more, _MORE, 0) + _FIRST
        if not more.any():
            break
    return groups[used].tobytes().decode("ascii")


def _numbers(text: str) -> _Integers:
    """The lengths that a text stands for. Raises: ValueError."""
    groups = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - _FIRST
    if not len(groups) or groups.min() < 0 or groups.max() >= 2 * _MORE or groups[-1] & _MORE:
        raise ValueError(f"expected COCO's compressed run lengths, got {text[:40]!r}")
    last = np.flatnonzero((groups & _MORE) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    counts = last - first + 1
    if counts.max() > _MOST_GROUPS:
        raise ValueError(f"expected run lengths of at most {_MOST_GROUPS} groups, got {counts.max()}")
    shifts = _BITS * (np.arange(len(groups)) - np.repeat(first, counts))
    numbers: _Integers = np.add.reduceat((groups & (_MORE - 1)) << shifts, first)
    numbers -= np.where(groups[last] & (_MORE >> 1), np.int64(1) << (_BITS * counts), 0)
    # Texts that stand for no mask may have any numbers; sums of them must not overflow.
    if np.abs(numbers).max() > _MOST_PIXELS:
        raise ValueError(f"expected run lengths of at most {_MOST_PIXELS} pixels, got {text[:40]!r}")
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
