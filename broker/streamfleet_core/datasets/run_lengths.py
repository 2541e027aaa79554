"""Reads masks in COCO's compressed run-length encoding. Pure.

The pixels of a frame are counted down each column, from left to right: the lengths of the runs outside and
inside the mask, in turn. From the fourth length on, a text has the difference to the one before the last.
A number is written in groups of 5 bits, the lowest first, as characters from `0` on. In a group, the sixth
bit says that another one follows; in the last one, the fifth bit is the sign (cocoapi, common/maskApi.c).
"""

from __future__ import annotations

from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.prediction import Rle

_BITS = 5  # of a group
_MORE, _SIGN = 0x20, 0x10
_MOST_BITS = 35  # of a number: more than any frame needs


def runs_of(rle: Rle) -> list[int]:
    """The lengths of all runs, which add up to the pixels of the frame. Raises: BadData."""
    height, width = rle["size"]
    lengths = _numbers(rle["counts"])
    for index in range(3, len(lengths)):
        lengths[index] += lengths[index - 2]
    if any(length < 0 for length in lengths) or sum(lengths) != height * width:
        raise BadData(f"runs of {height * width} pixels in a mask", f"{len(lengths)} others")
    return lengths


def _numbers(text: str) -> list[int]:
    numbers = []
    number = bits = 0
    for character in text:
        group = ord(character) - ord("0")
        if not 0 <= group < 2 * _MORE or bits >= _MOST_BITS:
            raise BadData("COCO's compressed run lengths", repr(text[:40]))
        number |= (group & (_MORE - 1)) << bits
        bits += _BITS
        if group & _MORE:
            continue
        numbers.append(number - (1 << bits) if group & _SIGN else number)
        number = bits = 0
    if bits:
        raise BadData("COCO's compressed run lengths", "a text that is cut short")
    return numbers
